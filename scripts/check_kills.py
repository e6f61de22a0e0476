#!/usr/bin/env python3
"""Check that commands killed at random moments, or out of disk, end in the same bytes as undisturbed ones.

Every case is a command on drawn faces with a tiny network. It runs once undisturbed. Then it is killed
(SIGKILL) at random moments and started again until it ends, over and over until the kills are used up. With
``--full-disk`` it runs on a tmpfs that is too small, which grows a little whenever the command has ended with
exit code 2 and one line that names the file; that needs root, for mounting. All files that are left are
compared byte for byte with the undisturbed run's, and no temporary file may be left.

Not compared are times: the columns ``seconds`` and ``images/s`` of ``log.csv``, ``seconds`` in a checkpoint,
the training time in ``leaderboard.*``, and TensorBoard's files, whose names and lines hold the time.

    python scripts/check_kills.py                       # every case, 20 kills each
    python scripts/check_kills.py lrn --kills 5 --seed 3
    python scripts/check_kills.py --full-disk --kills 0
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import io
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).parents[1]
LONGEST = 300.0  # seconds that an undisturbed command may take

_TRAIN = ("--data", "crops/manifest.csv", "--out", "out", "--resume", "--cpu", "--cache", "cache")
_TINY = ("network.backbone='resnet10-tiny'", "network.input_size=32", "train.sizes=[]", "train.batch_size=8")
_SHORT = (*_TINY, "train.epochs=2", "train.precision='no'")
_SOLVED = ("method.settings.components=8",)
_DISTILLED = (
    "method.settings.width=0.05",
    "method.settings.zca=3",
    "method.settings.length=4",
    "method.settings.permutations=6",
    "method.settings.sequences=32",
    "method.settings.groups=[[0, 40], [20, 60], [40, 80]]",
    "method.settings.ranker_train.epochs=2",
    "method.settings.ranker_train.batch_size=8",
    "method.settings.classifier_train.epochs=2",
    "method.settings.hint_train.epochs=2",
    "method.settings.hint_train.batch_size=8",
    "network.backbone='zca3:student-small@0.25'",
    "train.epochs=2",
    "train.batch_size=8",
    "train.precision='no'",
)
_SUITE = """
name = "drawn"
seeds = [0]
set = [
    "train.epochs=1", "train.batch_size=8", "train.sizes=[]", "train.precision='no'",
    "network.input_size=32", "network.backbone='resnet10-tiny'",
]
[[system]]
name = "absolute error"
recipe = "l1-utkface"
[[system]]
name = "cross entropy"
recipe = "dex-utkface"
seeds = [0, 1]
"""


def _set(*settings: str) -> tuple[str, ...]:
    return tuple(part for setting in settings for part in ("--set", setting))


_PREPARE = ("prepare", "photos/labels.csv", "--out", "out", "--chips", "--size", "48")
_SWEEP = ("--data", "crops/manifest.csv", "--out", "out", "--cpu", "--seeds", "0,1")
_BALANCED = ("finish.settings.batch_size=8", "finish.settings.epochs=2")

CASES: dict[str, tuple[str, ...]] = {
    "prepare": _PREPARE,
    "prepare-workers": (*_PREPARE, "--workers", "2"),
    "lrn": ("train", "lrn-utkface", *_TRAIN, *_set(*_SHORT, "method.settings.generations=2")),
    "lae-adjusted": ("train", "lae-utkface", *_TRAIN, "--finish", "logit-adjusted", *_set(*_SHORT)),
    "lae-balanced": ("train", "lae-utkface", *_TRAIN, "--finish", "balanced", *_set(*_SHORT, *_BALANCED)),
    "identity": ("train", "identity-lfw", *_TRAIN, *_set(*_SHORT)),
    "ordinal-dark": ("train", "ordinal-dark-utkface", *_TRAIN, *_set(*_DISTILLED)),
    "baseline": ("train", "dex-utkface", *_TRAIN, *_set(*_SHORT)),
    "references": ("train", "mwr-utkface", *_TRAIN, *_set(*_SHORT)),
    "fixed-features": ("train", "bif-cca-utkface", *_TRAIN, *_set(*_SOLVED)),
    "protocol": ("train", "dex-utkface", *_TRAIN, "--protocol", "subject-3-fold", *_set(*_SHORT)),
    "sweep": (
        *("sweep", "dex-utkface", *_SWEEP, "--grid", "learning_rate=0.001,0.003"),
        *_set(*_TINY, "train.epochs=1", "train.precision='no'"),
    ),
    "leaderboard": (
        *("leaderboard", "suite.toml", "--data", "crops/manifest.csv", "--out", "out", "--cpu"),
        "--no-latency",
    ),
    "predict": (
        *("predict", "photos", "--crops", "--out", "out/ages.csv", "--resume"),
        *("--save-faces", "out/faces"),
    ),
}


@dataclass
class Ended:
    """The end of a command: its exit code (negative: the signal), what it said, and how long it took."""

    code: int
    said: str
    seconds: float


def main() -> int:
    """Check the cases that are named; every problem is a line, and the exit code 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--kills", type=int, default=20, help="of each case")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--full-disk", action="store_true", help="also on a disk too small (root)")
    parser.add_argument("--folder", type=Path, help="where to work, kept; default: a temporary one")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}")
    full_disk = options.full_disk
    if full_disk and (sys.platform != "linux" or os.geteuid() != 0):
        print("skipped: a small tmpfs needs Linux and root", flush=True)
        full_disk = False
    _load()
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        base = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base.mkdir(parents=True, exist_ok=True)
        draw_inputs(base / "inputs")
        for name in options.cases or CASES:
            for line in check(name, base, options.kills, options.seed, full_disk):
                print(f"  PROBLEM {name}: {line}", flush=True)
                problems.append(line)
    print(f"{len(problems)} problems", flush=True)
    return bool(problems)


def check(name: str, base: Path, kills: int, seed: int, full_disk: bool) -> Iterator[str]:
    """Run one case undisturbed, killed and on a full disk; yield what is wrong."""
    whole = base / f"{name}-whole"
    with _work(base) as work:
        done = run(CASES[name], work)
        if done.code not in (0, 1):
            yield f"undisturbed: exit code {done.code}: {done.said}"
            return
        keep(work, whole)
    expected = contents(whole)
    moments = random.Random(f"{name} {seed}")
    killed = rounds = 0
    while killed < kills:
        rounds += 1
        with _work(base) as work:
            while True:
                left = kills - killed
                after = moments.uniform(0, 0.35 * done.seconds) if left else None
                ended = run(CASES[name], work, kill_after=after)
                if ended.code != -signal.SIGKILL:
                    break
                killed += 1
            if ended.code != done.code:
                yield f"round {rounds}, after kills: exit code {ended.code}, not {done.code}: {ended.said}"
                return
            yield from (
                f"round {rounds}, after kills: {line}" for line in differences(expected, contents(work))
            )
            yield from (f"round {rounds}, after kills: left behind: {line}" for line in leftovers(work))
    shown = f"{len(expected)} files, {done.seconds:.1f} s undisturbed"
    print(f"{name}: {shown}; {killed} kills in {rounds} runs to the end", flush=True)
    if full_disk:
        yield from _on_a_small_disk(name, base, expected, done)


def _on_a_small_disk(name: str, base: Path, expected: dict[str, bytes], done: Ended) -> Iterator[str]:
    files = [path for path in (base / "inputs").rglob("*") if path.is_file()]
    inputs = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
    made = sum(map(len, expected.values()))
    size, failures = inputs + 2**14, 0
    with _work(base, size) as work:
        while True:
            ended = run(CASES[name], work)
            if ended.code == done.code:
                break
            failures += 1
            lines = [line for line in ended.said.splitlines() if re.match(r"error: ", line)]
            if (
                ended.code != 2
                or len(lines) != 1
                or "Traceback" in ended.said
                or not re.search(r"space left|free", lines[0])
            ):
                yield f"{size / 1e6:.2f} MB: exit code {ended.code}: {ended.said[-1500:]}"
            elif not re.search(r"(out|cache|crops)/\S", lines[0]):
                yield f"{size / 1e6:.2f} MB: no path in {lines[0]}"
            kept = (r"ages\.csv\.partial", r"\.fold-\d+")  # what the next run goes on from
            for line in leftovers(work):
                if not re.fullmatch("|".join(kept), Path(line).name):
                    yield f"{size / 1e6:.2f} MB: left behind: {line}"
            if size > inputs + 10 * made + 10**8:
                yield "does not end however large the disk is"
                return
            size += max((made - inputs) // 8, 2**14)
            subprocess.run(["mount", "-o", f"remount,size={size}", str(work)], check=True)
        for line in wrong(work, expected):
            yield f"after a full disk: {line}"
    if not failures:
        yield "the disk was never full"
    print(
        f"{name}: ended with an error {failures} times on a full disk, then with the same files", flush=True
    )


@contextlib.contextmanager
def _work(base: Path, size: int | None = None) -> Iterator[Path]:
    """The folder that commands work in, with the inputs in it; always of one name, which files hold."""
    work = base / "work"
    work.mkdir()
    try:
        if size is not None:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(work)], check=True)
        shutil.copytree(base / "inputs", work, dirs_exist_ok=True)
        yield work
    finally:
        if size is not None:
            subprocess.run(["umount", str(work)], check=True)
        if work.exists():
            shutil.rmtree(work)


def keep(work: Path, there: Path) -> None:
    """Move what a command left."""
    if there.exists():
        shutil.rmtree(there)
    shutil.copytree(work, there)


def run(arguments: tuple[str, ...], folder: Path, kill_after: float | None = None) -> Ended:
    """Run the command line in a fork, which need not import anything; kill it after some seconds."""
    reader, writer = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(arguments, folder, writer)
    os.close(writer)
    ends = started + (LONGEST if kill_after is None else kill_after)
    said = b""
    with contextlib.closing(os.fdopen(reader, "rb", buffering=0)) as pipe:
        while True:
            left = ends - time.monotonic()
            if left <= 0:
                break
            if select.select([pipe], [], [], left)[0]:
                chunk = pipe.read(65536)
                if not chunk:
                    break
                said += chunk
        if time.monotonic() >= ends:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and kill_after is None:
        raise SystemExit(f"{' '.join(arguments)}: took longer than {LONGEST:.0f} s: {said.decode()}")
    return Ended(code, said.decode(errors="replace"), time.monotonic() - started)


def _become(arguments: tuple[str, ...], folder: Path, writer: int) -> None:
    code = 70
    try:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(writer, stream)
        os.close(writer)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False)) for n in (1, 2))
        sys.argv = ["agelens", *arguments]
        from agelens.__main__ import main as agelens

        try:
            agelens()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # the child ends here whatever happens
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_LOADED = (
    "accelerate",
    "onnx",
    "onnxscript",
    "pandas",
    "timm",
    "agelens.apps.cli",
    "agelens.data.prepare",
    "agelens.experiments.folds",
    "agelens.experiments.leaderboard",
    "agelens.experiments.sweep",
    "agelens.reports.leaderboard",
)


def _load() -> None:
    """Import what the commands import, so that a fork begins with its work."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("COLUMNS", "200")
    import torch

    torch.set_num_threads(1)
    for name in _LOADED:
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module("torch.utils.tensorboard")


# --- what is left


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name in the folder, without what holds times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith("events.out.tfevents."):
            content = path.read_bytes()
            for pattern, without in _TIMES.items():
                if re.fullmatch(pattern, path.name):
                    content = without(content)
            found[name] = content
    return found


def wrong(folder: Path, expected: dict[str, bytes]) -> Iterator[str]:
    """Differences from the undisturbed run, and files left behind."""
    yield from differences(expected, contents(folder))
    yield from (f"left behind: {name}" for name in leftovers(folder))


def leftovers(folder: Path) -> list[str]:
    """Files that look temporary."""
    from agelens.files import is_leftover

    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if is_leftover(path) or path.name.endswith((".partial", ".tmp")) or path.name.startswith(".fold-")
    ]


def differences(expected: dict[str, bytes], got: dict[str, bytes]) -> Iterator[str]:
    """Names of the files that are missing, more or different."""
    for name in sorted(expected.keys() | got.keys()):
        if name not in got:
            yield f"missing: {name}"
        elif name not in expected:
            yield f"more: {name}"
        elif expected[name] != got[name]:
            place = next(
                (k for k, (a, b) in enumerate(zip(expected[name], got[name], strict=False)) if a != b),
                min(len(expected[name]), len(got[name])),
            )
            around = slice(max(0, place - 60), place + 60)
            yield f"different: {name} at {place}: {expected[name][around]!r} … {got[name][around]!r}"


def _without_columns(*columns: str) -> Callable[[bytes], bytes]:
    def without(content: bytes) -> bytes:
        rows = [dict(row) for row in csv.DictReader(io.StringIO(content.decode()))]
        return json.dumps([{k: v for k, v in row.items() if k not in columns} for row in rows]).encode()

    return without


def _without_seconds(content: bytes) -> bytes:
    """A checkpoint without the seconds of its training, which its header holds."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["json"])
    facts.pop("seconds")
    header["__metadata__"]["json"] = facts
    return json.dumps(header, sort_keys=True).encode() + content[8 + length :]


def _without_training_time(content: bytes) -> bytes:
    """The page of a leaderboard without its column of training times, the last but one."""
    return re.sub(rb"<td>[^<]*</td>(<td>[^<]*</td></tr>)", rb"\1", content)


_TIMES = {
    r"leaderboard\.csv": _without_columns("training [s]"),
    r"leaderboard\.html": _without_training_time,
    r"leaderboard\.json": lambda content: re.sub(rb'"training seconds": [\d.]+', b"", content),
    r"log\.csv": _without_columns("seconds", "images/s"),
    r"checkpoint\.safetensors": _without_seconds,
}


# --- inputs


def draw_inputs(folder: Path) -> None:
    """Draw crops of people with ages and a split, photographs with labels, and write a suite."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from agelens.faces.alignment import DEFAULT_GEOMETRY
    from conftest import _draw_face

    crops, photos = folder / "crops", folder / "photos"
    crops.mkdir(parents=True)
    photos.mkdir()
    lines = ["path,age,subject,split,digest"]
    for number in range(48):
        age, side = number * 37 % 81, ("train", "val", "train", "test")[number // 3 % 4]
        Image.fromarray(_draw_face(age, size=64, seed=number)).save(crops / f"{number}.png")
        lines.append(f"{number}.png,{age},{number // 3:02d},{side},{number:064x}")
    (crops / "manifest.csv").write_text("\n".join(lines) + "\n")
    (crops / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(64).to_dict()))
    (folder / "suite.toml").write_text(_SUITE)

    portrait = Image.open(PROJECT / "examples" / "astronaut.jpg").resize((160, 160))
    for number in range(8):
        portrait.rotate(number - 6).save(photos / f"{number:02d}.jpg", quality=80 + number)
    shutil.copy(photos / "00.jpg", photos / "copy.jpg")
    (photos / "damaged.jpg").write_bytes((photos / "01.jpg").read_bytes()[:300])
    names = sorted(path.name for path in photos.iterdir())
    (photos / "labels.csv").write_text("path,age\n" + "".join(f"{name},30\n" for name in names))


if __name__ == "__main__":
    sys.exit(main())
