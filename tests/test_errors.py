"""The error tree: every error can be pickled and copied, through a process pool too."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from agelens import errors
from agelens.errors import AgelensError

ARGUMENTS: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
    "_TableError": (("a.csv", "is no number"), {"row": 3, "column": "age", "value": "x"}),
    "_PathError": (("a.jpg", "is empty"), {}),
    "RecipeError": (("r.toml", "train.epochs", "is not positive", 0), {}),
    "MissingExtraError": (("onnx", "train"), {}),
    "ServiceError": (("http://127.0.0.1", "refused", 503), {}),
    "AgelensError": (("plain words",), {}),
}


def subclasses(kind: type[AgelensError]) -> Iterator[type[AgelensError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


KINDS = sorted(
    {kind for kind in subclasses(AgelensError) if not kind.__name__.startswith("_")},
    key=lambda kind: kind.__name__,
)


def example(kind: type[AgelensError]) -> AgelensError:
    """An error of a kind, made as its nearest relative in `ARGUMENTS` is."""
    name = next(base.__name__ for base in kind.__mro__ if base.__name__ in ARGUMENTS)
    positional, named = ARGUMENTS[name]
    return kind(*positional, **named)


def assert_same(got: BaseException, expected: AgelensError) -> None:
    assert type(got) is type(expected)
    assert str(got) == str(expected) != ""
    assert got.args == expected.args
    assert {**got.__dict__} == {**expected.__dict__}


def test_the_tree_and_its_list_agree() -> None:
    ours = {kind.__name__ for kind in KINDS if kind.__module__ == errors.__name__}
    assert ours == set(errors.__all__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_pickles_and_copies(kind: type[AgelensError]) -> None:
    error = example(kind)
    error.add_note("while testing")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)
    assert_same(copy.deepcopy(error), error)
    assert_same(copy.copy(error), error)


def test_an_error_of_a_plug_in_pickles() -> None:
    assert_same(pickle.loads(pickle.dumps(PlugInError(4, unit="px"))), PlugInError(4, unit="px"))


class PlugInError(AgelensError):
    """An error whose constructor takes other things than its message."""

    def __init__(self, number: int, *, unit: str) -> None:
        self.number, self.unit = number, unit
        super().__init__(f"{number} {unit} are too few")


def test_a_process_pool_delivers_every_error() -> None:
    kinds = [kind for kind in KINDS if kind.__module__ == errors.__name__]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for kind in kinds:
            raised = pool.submit(exec, "raise error", {"error": example(kind)}).exception(timeout=60)
            assert raised is not None
            assert_same(raised, example(kind))
