"""A job as a file: YAML or JSON, with the fields of the API. Mistakes are told by line and field. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import yaml
from pydantic import ValidationError

from runner.api.mistakes import mistakes, named
from runner.api.models import JobRequest
from runner.errors import BadJobError
from sandbox.text import one_line

MAX_FILE: Final = 80 * 1024 * 1024
"""Largest job file, in bytes: the largest script, and what YAML adds to it."""
_MAX_DEPTH: Final = 20
_NO_JOB: Final = (
    "this is no job: a job has fields, such as `script: make test`. A script by itself is run by `runner run SCRIPT`."
)
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Mark(Protocol):
    """A place in a file, counted from 0."""

    line: int
    column: int


def parse(content: bytes, name: str) -> JobRequest:
    """Return the job in a file. Raises BadJobError, with a line for each mistake: `NAME:LINE:COLUMN:` and the field."""
    if len(content) > MAX_FILE:
        raise BadJobError(f"{name}: a job file has at most {MAX_FILE} bytes. Fetch the data from within the script.")
    if content.startswith(b"#!"):  # a script is often valid YAML
        raise BadJobError(f"{name}:1:1: {_NO_JOB}")
    document, node = _read_json(content, name) if content.lstrip().startswith(b"{") else _read_yaml(content, name)
    if not isinstance(document, dict):
        raise BadJobError(f"{_place(name, _mark(node, ()))}: {_NO_JOB}")
    wrong = list(_doubled(node))
    try:
        request = JobRequest.model_validate(document, strict=True)
        if not wrong:
            request.to_job()
    except ValidationError as error:
        wrong += [(_mark(node, where), sentence) for where, sentence in mistakes(error, JobRequest)]
    except BadJobError as error:
        wrong.append((_mark(node, error.field), str(error)))
    if wrong:
        wrong.sort(key=lambda one: (one[0].line, one[0].column) if one[0] else (0, 0))
        raise BadJobError("\n  ".join(one_line(f"{_place(name, mark)}: {said}") for mark, said in wrong))
    return request


def _read_json(content: bytes, name: str) -> tuple[object, yaml.Node | None]:
    """Read JSON with its own parser: YAML lacks some of JSON's escapes, and its tabs."""
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise BadJobError(f"{name}:{error.lineno}:{error.colno}: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise BadJobError(f"{name}: this is not JSON: {error}.") from None
    with contextlib.suppress(BadJobError):
        return document, _read_yaml(content, name)[1]
    return document, None


def _read_yaml(content: bytes, name: str) -> tuple[object, yaml.Node | None]:
    try:
        _check_depth(content, name)
        loader = _Loader(content)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node), node
    except yaml.MarkedYAMLError as error:
        said = one_line(", ".join(filter(None, (error.context, error.problem))))
        raise BadJobError(f"{_place(name, error.problem_mark)}: {said}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadJobError(f"{name}: this is neither YAML nor JSON: {str(error).splitlines()[0]}.") from None


def _check_depth(content: bytes, name: str) -> None:
    """Limit the depth, because the loader's recursion has no limit of its own."""
    depth = 0
    for event in yaml.parse(content, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise BadJobError(f"{_place(name, event.start_mark)}: this is nested too deeply for a job.")


def _doubled(node: yaml.Node | None) -> Iterator[tuple[_Mark | None, str]]:
    """Yield each name that occurs twice: the second would silently win."""
    pending, seen = [node], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if key.value in keys:
                    yield key.start_mark, f"{named((key.value,))}: this name was given before."
                keys.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
                pending.append(value)


def _mark(node: yaml.Node | None, path: Sequence[int | str]) -> _Mark | None:
    """Return the place of a field, or of the innermost thing around it."""
    mark: _Mark | None = node.start_mark if node else None
    for step in path:
        found = _child(node, step)
        if found is None:
            break
        name, node = found
        mark = name.start_mark
    return mark


def _child(node: yaml.Node | None, step: int | str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the name and the value of a field; an element of a list is both."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step], node.value[step]
    if isinstance(node, yaml.MappingNode):
        return next(((name, value) for name, value in node.value if name.value == step), None)
    return None


def _place(name: str, mark: _Mark | None) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
