"""Names of other packages: the literal dict first, then entry points, then package.module:name."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agelens.errors import PluginError
from agelens.faces.detectors import make_detector
from agelens.plugins import available, is_importable_name, origin, require, resolve


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """``install(package, version, module, code, **entry_points)`` lays out an installed distribution."""
    modules: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)

    def lay_out(package: str, version: str, module: str, code: str, entries: dict[str, str]) -> None:
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "RECORD").write_text(f"{module}.py,,\n")
        lines = [f"[{group}]\n{entry}\n" for group, entry in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        modules.append(module)

    yield lay_out
    for module in modules:
        sys.modules.pop(module, None)


def test_the_literal_dict_comes_first(install) -> None:  # type: ignore[no-untyped-def]
    install("acme", "1.2", "acme_a", "LOSS = 'theirs'", {"agelens.objectives": "l1 = acme_a:LOSS"})
    assert resolve("objectives", "l1", {"l1": "ours"}) == "ours"
    assert resolve("objectives", "l1", {}) == "theirs"
    assert origin("objectives", "l1", {"l1": "ours"}) is None


def test_an_entry_point_and_its_origin(install) -> None:  # type: ignore[no-untyped-def]
    install("acme", "1.2", "acme_b", "LOSS = 'theirs'", {"agelens.objectives": "huber = acme_b:LOSS"})
    assert resolve("objectives", "huber", {}) == "theirs"
    assert available("objectives", ["l1"]) == ["l1", "huber"]
    found = origin("objectives", "huber", {})
    assert found is not None
    expected = {"group": "objectives", "name": "huber", "package": "acme", "version": "1.2"}
    assert found.to_dict() == expected
    require([expected], "run")
    with pytest.raises(PluginError, match=r"no method 'huber'; there are lrn; .*agelens\.methods"):
        resolve("methods", "huber", {"lrn": 0})


def test_a_name_in_a_module(install) -> None:  # type: ignore[no-untyped-def]
    install("acme", "1.2", "acme_c", "LOSS = 'theirs'", {})
    assert resolve("objectives", "acme_c:LOSS", {}) == "theirs"
    found = origin("objectives", "acme_c:LOSS", {})
    assert found is not None
    assert (found.package, found.version) == ("acme", "1.2")
    with pytest.raises(PluginError, match="objective 'acme_c:OTHER' cannot be imported: AttributeError"):
        resolve("objectives", "acme_c:OTHER", {})


def test_a_file_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_loss_file.py").write_text("LOSS = 'mine'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = list(sys.path)
    assert resolve("objectives", "my_loss_file:LOSS", {}) == "mine"
    assert sys.path == before
    found = origin("objectives", "my_loss_file:LOSS", {})
    assert found is not None
    assert (found.package, found.version) == ("my_loss_file", "")
    sys.modules.pop("my_loss_file")


def test_two_packages_of_one_name_are_refused(install) -> None:  # type: ignore[no-untyped-def]
    install("acme", "1.2", "acme_d", "LOSS = 1", {"agelens.objectives": "huber = acme_d:LOSS"})
    install("other", "3", "other_d", "LOSS = 2", {"agelens.objectives": "huber = other_d:LOSS"})
    with pytest.raises(PluginError, match=r"'huber' \(acme 1.2, other 3\): name it as package"):
        resolve("objectives", "huber", {})


def test_a_package_that_fails_to_import_is_named(install) -> None:  # type: ignore[no-untyped-def]
    install(
        "acme", "1.2", "acme_e", "raise RuntimeError('no licence')", {"agelens.objectives": "h = acme_e:L"}
    )
    with pytest.raises(PluginError, match=r"'h' of the package acme 1.2 cannot .*RuntimeError: no licence"):
        resolve("objectives", "h", {})


def test_a_missing_package_is_named_with_its_version() -> None:
    recorded = {"group": "objectives", "name": "huber", "package": "acme", "version": "1.2"}
    with pytest.raises(PluginError, match=r"runs/a: was made with the objective 'huber' of .*acme==1\.2"):
        require([recorded], "runs/a")
    with pytest.raises(PluginError, match="unknown kind"):
        require([{**recorded, "group": "sounds"}], "runs/a")


def test_a_detector_of_a_package(install) -> None:  # type: ignore[no-untyped-def]
    code = "from agelens.faces.none import WholeImage\nclass Mine(WholeImage):\n    name = 'mine'\n"
    install("acme", "1.2", "acme_f", code, {"agelens.detectors": "mine = acme_f:Mine"})
    assert make_detector("mine", threads=1).name == "mine"
    with pytest.raises(PluginError, match=r"no detector 'yours'; there are yunet-onet, mtcnn, .*, mine"):
        make_detector("yours")


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("a:b", True),
        ("a.b_c:D", True),
        ("zca5:vgg16-64", False),
        ("a", False),
        ("a.b", False),
        ("a:b:c", False),
    ],
)
def test_names_of_the_import_system(name: str, right: bool) -> None:
    assert is_importable_name(name) is right


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(PluginError("no objective")))
    assert (type(error), str(error)) == (PluginError, "no objective")
