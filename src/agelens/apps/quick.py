"""Plain command lines, understood without what the command line's library loads to check values.

Typer compiles a pydantic schema for every option of a command before it looks at the first: a quarter of the
time from start to answer for one photo. Words that leave no room for doubt need none of it.
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from typer.models import ArgumentInfo, ParameterInfo, ParamMeta
from typer.utils import get_params_from_function

__all__ = ["plain_arguments"]

_NUMBER = {int: re.compile(r"-?[0-9]{1,15}"), float: re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")}


class _UnclearError(Exception):
    """The words must be read by the command line's library."""


class _Option(NamedTuple):
    name: str
    kind: Any
    info: ParameterInfo


def plain_arguments(function: Callable[..., object], words: Sequence[str]) -> dict[str, Any] | None:
    """Understand the words after a command's name, if they are plain.

    Plain are positional words, ``--option value``, ``--option=value`` and ``--flag``, each option once and by
    its whole name, with a text, path, number or choice as its parameter declares it.

    Args:
        function: The command, whose parameters are annotated for Typer.
        words: The words.
    Returns:
        Arguments of the function by name, those left out with their defaults; None if Typer must decide:
        help, short options, values that do not fit, anything it would report.
    """
    if os.name == "nt":  # patterns in words are expanded there
        return None
    try:
        return _arguments(function, words)
    except _UnclearError:
        return None


def _arguments(function: Callable[..., object], words: Sequence[str]) -> dict[str, Any]:
    options: dict[str, _Option] = {}
    positional: list[tuple[str, Any]] = []
    arguments: dict[str, Any] = {}
    parameters = get_params_from_function(function)
    for name, parameter in parameters.items():
        kind, info = _type(parameter), parameter.default
        if not isinstance(info, ParameterInfo) or info.parser or info.callback or info.envvar:
            raise _UnclearError
        if info.default is not ...:
            arguments[name] = info.default
        if isinstance(info, ArgumentInfo):
            positional.append((name, kind))
        else:
            options |= {word: _Option(name, kind, info) for word in _option_words(name, kind, info)}
    given: dict[str, Any] = {}
    loose: list[str] = []
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        if word == "-" or not word.startswith("-"):
            loose.append(word)
            continue
        word, equals, text = word.partition("=")
        if (option := options.get(word)) is None or option.name in given:
            raise _UnclearError
        if option.kind is bool:
            if equals:
                raise _UnclearError
            given[option.name] = True
        else:
            if not equals:
                text = waiting.pop() if waiting else ""
            given[option.name] = _value(text, option)
    arguments |= given | _positional(positional, loose)
    if len(arguments) != len(parameters):
        raise _UnclearError
    return arguments


def _type(parameter: ParamMeta) -> Any:
    """The type of a parameter, without None."""
    kind = parameter.annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [part for part in typing.get_args(kind) if part is not type(None)]
        if len(kinds) > 1:
            raise _UnclearError
        return kinds[0]
    return kind


def _option_words(name: str, kind: Any, info: ParameterInfo) -> list[str]:
    declared = list(info.param_decls or ())
    if kind is bool and (not declared or any("/" in word for word in declared)):
        return []  # a pair of words, to which Typer gives their meanings
    words = declared or [f"--{name.replace('_', '-')}"]
    return [word for word in words if word.startswith("--")]


def _value(text: str, option: _Option) -> Any:
    kind, info = option.kind, option.info
    if not text or (text.startswith("-") and text != "-" and kind not in _NUMBER):
        raise _UnclearError
    if kind is str:
        return text
    if kind is Path and not (info.exists or info.resolve_path):
        return Path(text)
    if kind in _NUMBER and _NUMBER[kind].fullmatch(text):
        number = kind(text)
        if (info.min is None or number >= info.min) and (info.max is None or number <= info.max):
            return number
    if isinstance(kind, type) and issubclass(kind, Enum) and text in {choice.value for choice in kind}:
        return kind(text)
    raise _UnclearError


def _positional(parameters: list[tuple[str, Any]], words: list[str]) -> dict[str, Any]:
    """Words to the one parameter that takes all, or to parameters in order."""
    if "" in words:
        raise _UnclearError
    if words and len(parameters) == 1 and parameters[0][1] == list[str]:
        return {parameters[0][0]: words}
    if len(parameters) != len(words) or any(kind not in (str, Path) for _, kind in parameters):
        raise _UnclearError
    return {name: kind(word) for (name, kind), word in zip(parameters, words, strict=True)}
