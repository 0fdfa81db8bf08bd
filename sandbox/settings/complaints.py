"""Describes mistakes in settings: where the value is, what was expected, and the nearest right name. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from sandbox.settings.model import EACH, Key, Setting, settings_of

_SHOWN: Final = 80
_MOST: Final = 50
"""Most characters shown of a wrong value, and most complaints at once."""


def complaints(error: ValidationError, model: type[BaseModel], place: Callable[[Key], str]) -> list[str]:
    """Write one sentence for each mistake. `place` returns where a key was given."""
    known = list(settings_of(model))
    found = error.errors(include_url=False, include_context=False)
    told = [_complaint(one, known, place) for one in found]
    return told if len(told) <= _MOST else [*told[:_MOST], f"and {len(told) - _MOST} more."]


def together(head: str, told: Sequence[str]) -> str:
    """Write one complaint on the same line, or several on a line each."""
    return f"{head} {told[0]}" if len(told) == 1 else "\n  ".join([head, *told])


def nearest(name: str, names: Sequence[str], likeness: float = 0.6) -> str:
    """Return the right name that was probably meant; empty when none is as alike as this (difflib's ratio)."""
    return next(iter(difflib.get_close_matches(name, names, 1, likeness)), "")


def demand(message: str) -> str:
    """Turn a validator's sentence into a demand, without a full stop."""
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = re.sub(r" after validation, not \d+$", "", message)
    demand = re.sub(r"^\w+ should ", "must ", message)
    return re.sub(r"(, unable to parse .*|: .*type=.*)$", "", demand).rstrip(".")


def _complaint(error: Any, known: Sequence[Setting], place: Callable[[Key], str]) -> str:  # noqa: ANN401 - a TypedDict
    key = tuple(str(step) for step in error["loc"])
    said = f"{place(key)}: {'.'.join(key) or 'all together'}"
    if error["type"] == "extra_forbidden":
        meant = _meant(key, known)
        return f"{said}: there is no such setting.{f' Did you mean {meant}?' if meant else ''}"
    setting = next((one for one in known if _fits(key[: len(one.key)], one.key)), None)
    # Only one setting's value is shown, never a whole section, which may have a secret in it.
    seen = f", not {_short(error['input'])}" if setting and not setting.secret else ""
    return f"{said}: {demand(error['msg'])}{seen}."


def _meant(key: Key, known: Sequence[Setting]) -> str:
    """Return the name that was probably meant: one beside it, or the same name elsewhere."""
    beside = {one.key[len(key) - 1] for one in known if _fits(key[:-1], one.key[: len(key) - 1])}
    if near := nearest(key[-1], sorted(beside - {EACH})):
        return near
    elsewhere = {one.key[-1]: one.name for one in known}
    near = nearest(key[-1], sorted(elsewhere))
    return elsewhere[near] if near else ""


def _fits(key: Key, pattern: Key) -> bool:
    """Whether this key belongs to the setting of this pattern."""
    return len(key) == len(pattern) and all(want in (EACH, step) for step, want in zip(key, pattern, strict=True))


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
