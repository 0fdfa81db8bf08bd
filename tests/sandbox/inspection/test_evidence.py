"""Evidence as JSON, which the child prints and the keeper keeps."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from sandbox.inspection import gather
from sandbox.inspection.evidence import Baseline, EvidenceError, parse_evidence
from tests.sandbox.inspection.evidence import READY

KEPT = TypeAdapter(Baseline)
"""As `keeper.records` keeps it, in what a sandbox was made as."""


def test_a_baseline_survives_a_restart_of_the_keeper() -> None:
    baseline = Baseline("c0ffee", 10, READY)
    assert KEPT.validate_json(KEPT.dump_json(baseline)) == baseline


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{}", b'{"init_start": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_evidence_is_refused(text: bytes) -> None:
    with pytest.raises(EvidenceError, match="cannot be read"):
        parse_evidence(text)
    with pytest.raises(ValidationError):
        KEPT.validate_json(text)


def test_a_baseline_of_another_version_is_refused() -> None:
    older = json.loads(KEPT.dump_json(Baseline("c0ffee", 10, READY)))
    del older["evidence"]["network"]
    with pytest.raises(ValidationError, match="network"):
        KEPT.validate_json(json.dumps(older).encode())


@pytest.mark.parametrize(
    "name", [b"a", b"\xff\xfe", b"\\xff", b"\\", "é€".encode(), b"\n\x1b[31m", b"\xed\xa0\x80", bytes(range(1, 256))]
)
def test_every_name_has_one_text(name: bytes) -> None:
    """The trap: a job may name a file with the text that stands for another file's bytes."""
    text = gather._text(name)
    assert gather.raw(text) == name
    assert json.loads(json.dumps(text)) == text
    text.encode()
