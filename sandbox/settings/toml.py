"""Reads one TOML file and finds the line of each key, which `tomllib` does not give."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.settings.model import Key

MAX_FILE: Final = 1024 * 1024
"""Bytes; a file of settings has a few thousand."""


class BadFile(Exception):
    """A file cannot be read or is not TOML. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content."""

    name: str
    tables: dict[str, Any]
    lines: Mapping[Key, int]

    def place(self, path: Key) -> str:
        """Return FILE:LINE of a key or of its closest table in the file; without one, only the file."""
        for end in range(len(path), 0, -1):
            if line := self.lines.get(path[:end]):
                return f"{self.name}:{line}"
        return self.name


def read(file: Path) -> Document:
    """Read a file. Raises `BadFile`."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
        text = content.decode()
    except FileNotFoundError:
        raise BadFile(f"The configuration file {file} does not exist. Make it, or name another one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"The configuration file {file} cannot be read: {error}.") from None
    if len(content) > MAX_FILE:
        raise BadFile(f"The configuration file {file} has more than {MAX_FILE} bytes. It holds settings only.")
    return parse(text, str(file))


def parse(text: str, name: str) -> Document:
    """Parse a text. Raises `BadFile`."""
    try:
        return Document(name, tomllib.loads(text), lines(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadFile(f"The configuration file {name} is not valid TOML: {error}.") from None


def lines(text: str) -> dict[Key, int]:
    """Return the line, from 1, on which each table and key of a valid TOML text begins.

    A statement gets lines added until it is valid TOML by itself.
    """
    found: dict[Key, int] = {}
    table: Key = ()
    statement, began = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            said = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        is_table = statement.lstrip().startswith("[")
        if is_table:
            table = _deepest(said)
            keys = [table]
        else:
            keys = [(*table, *key) for key in _keys(said)]
        for key in keys:
            for end in range(1, len(key) + 1):
                found.setdefault(key[:end], began)
        statement, began = "", number + 1
    return found


def _deepest(said: Any) -> Key:  # noqa: ANN401 - TOML of any kind
    """Return a table's name from its head, parsed alone. A table of an array has the array's name."""
    if isinstance(said, dict) and said:
        [(name, inner)] = said.items()
        return (name, *_deepest(inner))
    return ()


def _keys(said: dict[str, Any]) -> list[Key]:
    """Return every key in one statement: dotted keys and inline tables have several."""
    found: list[Key] = []
    for name, value in said.items():
        inner = _keys(value) if isinstance(value, dict) else []
        found += [(name,), *((name, *path) for path in inner)]
    return found
