"""Trainings as tasks of a Ray cluster: the same runs as here, whatever is killed; what is missing is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="trainings need the extra train")

from agelens.apps import cli
from agelens.errors import InputError, ManifestError, RunError
from agelens.experiments.at_once import Training
from agelens.experiments.leaderboard import Suite, leaderboard
from agelens.experiments.on_ray import OnRay, place_of
from agelens.experiments.sweep import plan, sweep
from agelens.training.recipe import Recipe

RECIPE = """
name = "small"
age_bins = "0-80"
[method]
name = "baseline"
[method.settings]
objective = "l1"
[network]
backbone = "resnet10-tiny"
input_size = 32
heads = ["reg"]
[train]
epochs = 12
batch_size = 8
optimizer = "adamw"
learning_rate = 0.003
"""


SUITE = """
name = "drawn"
set = [
    "train.epochs=1", "train.batch_size=16", "train.sizes=[]", "network.input_size=32",
    "train.precision='no'",
]
[[system]]
name = "absolute error"
recipe = "l1-utkface"
[[system]]
name = "cross entropy"
recipe = "dex-utkface"
[[system]]
name = "too slow"
recipe = "corn-utkface"
set = ["train.batch_size=1000"]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    generator = np.random.default_rng(0)
    ages = [float(generator.integers(0, 81)) for _ in range(32)]
    return make_crops(ages, 32, split=["train"] * 24 + ["val"] * 8)


class TestWithoutRay:
    @pytest.fixture
    def told(
        self, recipe: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., str]:
        def run(*options: str) -> str:
            words = ["sweep", str(recipe), "--data", str(manifest), "--out", str(tmp_path / "out"), "--cpu"]
            with pytest.raises(SystemExit) as ended:
                cli.app([*words, "--engine", "ray", *options])
            assert ended.value.code == 2
            return capsys.readouterr().err

        return run

    def test_the_extra_is_named(self, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        assert "[fleet]" in told()

    def test_an_address_that_does_not_answer(
        self, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
        assert "--ray-address 127.0.0.1:1: no answer" in told("--ray-address", "127.0.0.1:1")
        assert "HOST:PORT or auto" in told("--ray-address", "somewhere")

    def test_jobs_and_engines(self) -> None:
        assert place_of("local", None, None, True) is None
        assert place_of("local", 1, None, True) is None
        assert isinstance(place_of("ray", 1, None, True), OnRay)
        with pytest.raises(InputError, match="jobs"):
            place_of("ray", 0, None, True)
        with pytest.raises(InputError, match="engine is one of local, ray, not 'slurm'"):
            place_of("slurm", 1, None, True)


def workers() -> list[int]:
    """Processes of Ray that train."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes().startswith(b"ray::_work"):
                found.append(int(entry.parent.name))
        except OSError:  # it has ended
            continue
    return found


def begun(run: Path) -> bool:
    """Whether a run has finished an epoch."""
    return any(path.read_text().count("\n") > 2 for path in run.glob("*/log.csv"))


def wait(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def files_of(out: Path) -> dict[str, bytes]:
    """Weights and tables of a sweep."""
    paths = [*out.glob("*/baseline/network.safetensors"), out / "sweep.csv", out / "runs.csv"]
    assert len(paths) == 4
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def expected(recipe: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Those of the sweep in this process."""
    out = tmp_path_factory.mktemp("here")
    sweep(plan(recipe, (), (0, 1)), manifest, out, cpu=True)
    return files_of(out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")
class TestOnRay:
    @pytest.fixture(autouse=True)
    def _ray(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("RAY_worker_niceness", "0")  # else other work on the machine holds them up
        ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'agelens[fleet]'")
        yield
        ray.shutdown()

    def test_a_killed_worker_changes_nothing(
        self, recipe: Path, manifest: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        killed: list[int] = []

        def kill() -> None:
            wait(lambda: begun(tmp_path / "seed=0"))
            killed.extend(workers())
            for process in killed:
                os.kill(process, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        table = sweep(plan(recipe, (), (0, 1)), manifest, tmp_path, cpu=True, engine="ray", jobs=1)
        killer.join()
        assert killed
        assert {row.seeds for row in table.rows} == {(0, 1)}
        assert files_of(tmp_path) == expected

    def test_a_killed_driver_is_given_again(
        self, recipe: Path, manifest: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        words = [sys.executable, "-m", "agelens", "sweep", str(recipe), "--data", str(manifest)]
        words += ["--out", str(tmp_path), "--cpu", "--seeds", "0,1", "--engine", "ray", "--jobs", "1"]
        driver = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        wait(lambda: begun(tmp_path / "seed=0") or driver.poll() is not None)
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        driver.kill()
        driver.communicate()
        wait(lambda: not workers())
        assert not (tmp_path / "sweep.csv").exists()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert files_of(tmp_path) == expected

    def test_a_leaderboard_is_that_of_this_process(self, manifest: Path, tmp_path: Path) -> None:
        (tmp_path / "suite.toml").write_text(SUITE)
        suite = Suite.load(tmp_path / "suite.toml")
        here, there = (
            leaderboard(
                *(suite, manifest, tmp_path / engine),
                split="val",
                latency=False,
                replicates=50,
                cpu=True,
                engine=engine,
            )
            for engine in ("local", "ray")
        )
        assert [row.result.name for row in here.rows] == [row.result.name for row in there.rows]
        assert [row.result.metrics for row in here.rows] == [row.result.metrics for row in there.rows]
        assert [name for name, _ in there.failed] == [name for name, _ in here.failed] == ["too slow"]

    def test_errors_come_back_and_nothing_begins_after_a_stop(self, recipe: Path, tmp_path: Path) -> None:
        missing = Training(Recipe.load(recipe), tmp_path / "manifest.csv", tmp_path / "run", None, cpu=True)
        with OnRay(1, cpu=True) as cluster:
            with pytest.raises(ManifestError, match=r"manifest\.csv"):
                cluster.train(missing)
            cluster.stop()
            with pytest.raises(RunError, match="stopped before it began"):
                cluster.train(missing)
