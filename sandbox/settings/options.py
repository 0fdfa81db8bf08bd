"""A command's options, one for each setting, made from the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

import typer
from pydantic import ByteSize

from sandbox.settings.model import Key, Setting, written

_F = TypeVar("_F", bound=Callable[..., None])
_METAVARS: Final = ((Path, "PATH"), (ByteSize, "BYTES"), (int, "INTEGER"), (float, "NUMBER"))


def takes_settings(settings: Iterable[Setting]) -> Callable[[_F], _F]:
    """Give a command's function, which ends in `**given`, an option for each of these settings.

    Their values arrive as text and are validated like a variable's.
    """

    def add(function: _F) -> _F:
        signature = inspect.signature(function, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        more = [_parameter(setting) for setting in settings if setting.alone]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return function

    return add


def given_settings(given: Mapping[str, Any], settings: Iterable[Setting]) -> dict[Key, str | list[str]]:
    """Return the values in `**given` by setting."""
    by_name = {_python_name(setting): setting.key for setting in settings}
    return {by_name[name]: value for name, value in given.items() if value is not None}


def _parameter(setting: Setting) -> inspect.Parameter:
    kind = list[str] | None if _again(setting) else str | None
    about = typer.Option(setting.option, metavar=_metavar(setting), help=_help(setting))
    annotation = Annotated[kind, about]  # type: ignore[valid-type]
    return inspect.Parameter(_python_name(setting), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _python_name(setting: Setting) -> str:
    return "_".join(setting.key)


def _again(setting: Setting) -> bool:
    """Whether the option is repeated for each item of a list. A secret's one file has all of them."""
    return setting.many and not setting.secret


def _metavar(setting: Setting) -> str:
    if setting.secret:
        return "PATH"
    kinds = (setting.kind, *get_args(setting.kind))
    return next((name for kind, name in _METAVARS if kind in kinds), "TEXT")


def _help(setting: Setting) -> str:
    """Write the first sentence and the default."""
    text = setting.text.partition(". ")[0].rstrip(".")
    again = " (again for more)" if _again(setting) else ""
    default = written(setting.default).strip("[]").replace('"', "")
    return f"{text}{again}." + (f" Default: {default}" if default else "")
