"""The mistakes in a document of the API, as sentences with their places; they quote nothing of the document. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, ValidationError

from runner.source_and_artifacts import KINDS
from sandbox.settings.complaints import demand, nearest
from sandbox.text import one_line

Where: TypeAlias = tuple[int | str, ...]

MOST: Final = 20
"""The most mistakes that are told at once."""
_KINDS: Final = ", ".join(sorted(KINDS))
_BRANCHES: Final = {"source": KINDS, "allow_failure": {"bool", "list[int]"}}
"""The names that pydantic gives to the alternatives of a field, which are no places in the document."""
_SHOWN: Final = 80
"""Characters to show of a name that the client chose."""
_NO_FIELDS: Final = frozenset({"model_type", "model_attributes_type", "dict_type"})


def mistakes(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Where, str]]:
    """Yield the place of each of the first mistakes, and a sentence that begins with that place."""
    for one in error.errors(include_input=False, include_url=False, include_context=False)[:MOST]:
        where = _place(one["loc"])
        yield where, f"{named(where)}: {_sentence(one['type'], one['msg'], model, where)}"


def named(where: Where) -> str:
    """Return a place in a document as people write it."""
    return ".".join(one_line(str(step))[:_SHOWN] for step in where) or "the body"


def _place(location: Sequence[int | str]) -> Where:
    """Return the place in a document from pydantic's location."""
    steps = itertools.pairwise(("", *location))
    return tuple(step for before, step in steps if step not in _BRANCHES.get(str(before), ()))


def _sentence(kind: str, message: str, model: type[BaseModel], where: Where) -> str:
    if kind == "extra_forbidden":
        meant = nearest(str(where[-1]), _fields(model, where[:-1]))
        return f"there is no such field.{f' Did you mean {meant}?' if meant else ''}"
    if kind == "missing":
        return "must be given."
    if kind.startswith("union_tag"):
        return f"must have a `kind`: {_KINDS}."
    if kind in _NO_FIELDS:
        fields = _fields(model, where)
        return f"must have fields: {', '.join(fields)}." if fields else "must be names with values."
    return f"{demand(message)}."


def _fields(model: type[BaseModel], where: Where) -> list[str]:
    """Return the fields that the schema allows at a place, by their names in documents."""
    whole = model.model_json_schema()
    forms = list(_forms(whole, whole))
    for step in where:
        inner = [
            form.get("items") if isinstance(step, int) else form.get("properties", {}).get(step) for form in forms
        ]  # fmt: skip
        forms = [form for one in inner if one for form in _forms(one, whole)]
    return list(dict.fromkeys(name for form in forms for name in form.get("properties", {})))


def _forms(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and its alternatives."""
    if reference := schema.get("$ref"):
        schema = whole["$defs"][reference.rpartition("/")[2]]
    yield schema
    for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _forms(one, whole)
