"""Reads the packages' source for tests that check it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the packages, by its path in the repository."""
    paths = [path for package in ("runner", "sandbox") for path in sorted((ROOT / package).rglob("*.py"))]
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in paths]


def members(module: str, enum: str) -> dict[str, str]:
    """The members of an enum, by value, with the sentence below each."""
    tree = ast.parse((ROOT / module).read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enum]
    meanings = {}
    for member, below in zip(found.body, found.body[1:], strict=False):
        if isinstance(member, ast.Assign):
            meanings[str(ast.literal_eval(member.value))] = str(ast.literal_eval(below.value))  # type: ignore[attr-defined]
    return meanings
