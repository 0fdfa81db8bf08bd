"""`runner run` on a host that has no room for it."""

from __future__ import annotations

import tempfile

import pytest

from runner import run
from runner.errors import LogError


def test_no_place_for_the_log_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/none/such")
    with pytest.raises(LogError, match="Set TMPDIR"):
        run._folder()
