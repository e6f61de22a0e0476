"""The imports point one way, and the light half needs neither torch nor pandas."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "agelens"

# The rooms, lowest first: a room may import from its own rank and from those below it.
RANKS = (
    {
        "errors",
        "files",
        "reading",
        "stored_arrays",
        "cores",
        "workers",
        "plugins",
        "protocol_buffer",
        "terms",
        "rehearsal",
    },
    {"faces", "losses", "objectives", "metrics", "calibration", "model_file", "label_distribution", "shift"},
    {"data", "networks"},
    {"training", "inference"},
    {"methods", "export", "evaluation", "explanation", "video"},
    {"client", "serve", "fleet", "experiments", "reports"},
    {"apps"},
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
FORBIDDEN = {
    ("training", "inference"),
    ("inference", "training"),
    ("data", "networks"),
    ("networks", "data"),
    *(
        (room, other)
        for room in ("client", "serve")
        for other in (
            "methods",
            "training",
            "networks",
            "export",
            "evaluation",
            "data",
            "reports",
            "experiments",
        )
    ),
    ("client", "serve"),
    ("serve", "client"),
}
LIGHT = {
    "errors",
    "files",
    "reading",
    "stored_arrays",
    "cores",
    "workers",
    "plugins",
    "protocol_buffer",
    "terms",
    "rehearsal",
    "label_distribution",
    "metrics",
    "calibration",
    "shift",
    "model_file",
    "faces",
    "inference",
    "video",
    "client",
    "apps",
}
# What a room may import while it is imported itself, besides the standard library.
LIGHT_THIRD_PARTIES = {"numpy", "PIL", "onnxruntime", "typer", "click", "rich", "pydantic"}
SERVE_THIRD_PARTIES = {"fastapi", "python_multipart", "starlette", "uvicorn"}  # of the extra serve
TORCH_ROOMS = {
    "losses",
    "objectives",
    "networks",
    "training",
    "methods",
    "experiments",
    "export",
    "explanation",
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem[:2] != "__")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, when_imported: bool = False, typed: bool = True) -> Iterator[str]:
    """Dotted names that a file imports.

    Args:
        path: The file.
        when_imported: Only those that run when it is imported.
        typed: Those for type checkers alone, too.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if when_imported and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if (
            (when_imported or not typed)
            and isinstance(node, ast.If)
            and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def rooms_imported(path: Path) -> set[str]:
    """The rooms of agelens that a file imports from."""
    names = [name.split(".") for name in imports(path)]
    return {parts[1] for parts in names if parts[0] == "agelens" and len(parts) > 1 and parts[1] in RANK}


def test_every_module_has_a_room() -> None:
    assert {room_of(path) for path in MODULES} <= set(RANK)
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    others = rooms_imported(path) - {room}
    upwards = {other for other in others if RANK[other] > RANK[room]}
    assert not upwards, f"{module_name(path)} imports from above: {upwards}"
    forbidden = {other for other in others if (room, other) in FORBIDDEN}
    assert not forbidden, f"{module_name(path)} may not import {forbidden}"


def test_rooms_have_no_cycle() -> None:
    needs: dict[str, set[str]] = {room: set() for room in RANK}
    for path in MODULES:
        needs[room_of(path)] |= rooms_imported(path) - {room_of(path)}
    left = dict(needs)
    while left:
        free = [room for room, others in left.items() if not others & set(left)]
        assert free, f"these rooms import each other in a circle: {sorted(left)}"
        for room in free:
            del left[room]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other: strongly connected components (Tarjan), named in order."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        path.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
            if other in path:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == number[node]:
            group = path[path.index(node) :]
            del path[path.index(node) :]
            if len(group) > 1 or node in graph[node]:
                found.append(sorted(group))

    for node in graph:
        if node not in number:
            visit(node)
    return found


def test_a_circle_is_seen_and_named() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert circles({"a": {"a"}}) == [["a"]]


def test_files_import_each_other_in_no_circle() -> None:
    """Imports inside functions count; those for type checkers alone do not, for they never run.

    A file of a package imports the package's ``__init__`` only where it names it.
    """
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}

    def file_of(name: str) -> str:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    graph = {
        module: {file_of(name) for name in imports(path, typed=False) if name.partition(".")[0] == "agelens"}
        for module, path in files.items()
    }
    graph["agelens"] -= {"agelens"}  # its own names, lazily
    assert len(graph) > 100
    assert graph["agelens.training.fit"] >= {"agelens.training.run", "agelens.training.stage"}
    assert not circles(graph)


def test_no_file_is_long() -> None:
    long = {
        module_name(path): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := path.read_text(encoding="utf-8").count("\n")) > 500
    }
    assert not long, f"more than 500 lines: {long}"


def test_no_room_is_crowded() -> None:
    """No room holds 15 % of the lines; the estimator is read in one go."""
    lines: dict[str, int] = {}
    for path in MODULES:
        lines[room_of(path)] = lines.get(room_of(path), 0) + path.read_text(encoding="utf-8").count("\n")
    assert max(lines.values()) < 0.15 * sum(lines.values()), lines
    estimator = PACKAGE / "inference" / "estimator.py"
    assert estimator.read_text(encoding="utf-8").count("\n") < 150


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_third_parties_stay_in_their_rooms(path: Path) -> None:
    room = room_of(path)
    third = {name.split(".")[0] for name in imports(path, when_imported=True)}
    third -= sys.stdlib_module_names | {"agelens"}
    if room in LIGHT:
        assert third <= LIGHT_THIRD_PARTIES
    if room == "serve":
        assert third <= LIGHT_THIRD_PARTIES | SERVE_THIRD_PARTIES
    if room not in TORCH_ROOMS:
        assert not third & {"torch", "torchvision", "timm", "accelerate", "safetensors"}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room_of(path) in ("evaluation", "explanation")], ids=module_name
)
def test_rooms_of_numbers_do_not_draw(path: Path) -> None:
    drawing = {name.split(".")[0] for name in imports(path)} & {"matplotlib", "jinja2", "markupsafe", "rich"}
    assert not drawing, f"{module_name(path)} draws with {drawing}: that is the work of reports/"


BLOCKED = ("torch", "torchvision", "pandas", "scipy", "sklearn", "matplotlib", "pyarrow", "cv2", "onnx")


def run_blocked(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the libraries of the extras cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", block + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_light_half_imports_without_the_extras() -> None:
    names = [module_name(path) for path in MODULES if room_of(path) in LIGHT]
    assert "agelens.inference.estimator" in names
    assert "agelens.apps.cli" in names
    done = run_blocked("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names)
    assert done.returncode == 0, done.stderr


def test_serve_imports_without_torch_and_pandas() -> None:
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    names = [module_name(path) for path in MODULES if room_of(path) == "serve"]
    assert "agelens.serve.app" in names
    done = run_blocked("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names)
    assert done.returncode == 0, done.stderr


def test_light_half_predicts_without_the_extras(small_model: Path, portrait: Path) -> None:
    code = (
        "import agelens\n"
        "(face,) = agelens.AgeEstimator(sys.argv[1]).estimate(sys.argv[2])\n"
        "low, high = face.interval(0.9)\n"
        "print(face.age, low, high, face.probability_at_least(18))"
    )
    done = run_blocked(code, str(small_model), str(portrait))
    assert done.returncode == 0, done.stderr
    age, low, high, probability = map(float, done.stdout.split())
    assert 0 <= low < high <= 100
    assert 0 < age < 100
    assert 0 < probability <= 1


@pytest.mark.parametrize("listed", ["datasets", "protocols"])
def test_listing_needs_no_extra(listed: str) -> None:
    code = "import sys\nfrom agelens.apps.cli import main\nsys.argv = ['agelens', sys.argv[1]]\nmain()"
    done = run_blocked(code, listed)
    assert done.returncode == 0, done.stderr
    assert "utkface" in done.stdout


def test_importing_the_package_is_cheap() -> None:
    heavy = {"numpy", "onnxruntime", "PIL", "typer"}
    code = f"import sys, agelens; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_unknown_attribute_is_an_attribute_error() -> None:
    import agelens

    with pytest.raises(AttributeError, match="no attribute 'Age'"):
        agelens.Age  # noqa: B018


STEP_HOOKS = {"order", "inputs", "loss", "score", "stepped", "validate", "merit", "result"}


def test_no_hook_of_a_step_leaves_something_on_the_stage() -> None:
    """Hooks of a step hand on by arguments and results; only those of the setup and ``begin`` keep values."""
    kept = [
        f"{path.name}, line {node.lineno}: {hook.name} sets {ast.unparse(node)}"
        for path in (PACKAGE / "methods").rglob("*.py")
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(kind, ast.ClassDef)
        for hook in kind.body
        if isinstance(hook, ast.FunctionDef) and hook.name in STEP_HOOKS
        for node in ast.walk(hook)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if isinstance(node.value, ast.Name) and node.value.id == "self"
    ]
    assert kept == []


# --- the literal dicts: a name leads to the thing of that name


def test_detectors_know_their_names() -> None:
    from agelens.faces.detectors import DETECTORS

    assert {name: getattr(made, "name", None) for name, made in DETECTORS.items()} == {
        name: name for name in DETECTORS
    }
    assert set(DETECTORS) >= {"yunet-onet", "mtcnn", "haar", "yunet", "none"}


def test_datasets_know_their_names() -> None:
    from agelens.data.datasets import DATASETS

    assert {name: getattr(dataset.read, "__name__", None) for name, dataset in DATASETS.items()} == {
        name: name for name in DATASETS
    }


RECIPES = sorted(path.stem for path in (PACKAGE / "recipes").glob("*.toml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name: str) -> None:
    pytest.importorskip("torch", reason="recipes need the extra train")
    from agelens.label_distribution import AgeBins
    from agelens.methods.lookup import FINISHERS, make_stages, method_named
    from agelens.training.recipe import Recipe

    recipe = Recipe.load(name, ["network.pretrained=false"])  # published weights are downloaded
    assert recipe.source
    stages = make_stages(recipe, AgeBins(0, 100))
    assert len({stage.name for stage in stages}) == len(stages) > 0
    own = [stage for stage in stages if stage.name not in FINISHERS]  # a finisher needs what it finishes
    network = own[-1].network()  # the last one predicts
    if method_named(recipe.method.name).learns == "ages":
        assert network.head.heads == recipe.network.heads


def test_every_method_has_a_recipe() -> None:
    pytest.importorskip("torch", reason="methods need the extra train")
    from agelens.methods.lookup import METHODS
    from agelens.training.recipe import Recipe, recipe_names

    assert recipe_names() == RECIPES
    assert {Recipe.load(name).method.name for name in RECIPES} == set(METHODS)
