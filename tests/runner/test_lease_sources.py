"""The source of leases that the command line names, and the messages about settings that lead nowhere."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from runner import lease_sources
from runner.errors import BadJobError, InputError, RunnerError
from runner.execution.options import DEFAULTS


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    """Settings that lead somewhere."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    known = tmp_path / "known_hosts"
    known.write_text(f"192.0.2.1 {key.with_suffix('.pub').read_text()}")
    state = tmp_path / "state"
    return {"texts": ["ci@192.0.2.1:22"], "identity": key, "known_hosts": known, "state": state, "folder": None}


def test_the_places_are_below_one_folder(good: dict[str, Any]) -> None:
    source = lease_sources.addresses(**good)
    settings = source.adapt(DEFAULTS)
    assert (settings.workspace, settings.attempts) == (
        "/home/ci/runner-jobs/workspace",
        "/home/ci/runner-jobs/attempts",
    )
    assert source.ready is None  # one that is held in advance would be missed by every other runner of this host
    assert good["state"].stat().st_mode & 0o777 == 0o700
    assert lease_sources.addresses(**good | {"folder": "/srv/jobs/"}).adapt(DEFAULTS).workspace == "/srv/jobs/workspace"
    assert lease_sources.keeper(Path("/none")).adapt(DEFAULTS) == DEFAULTS


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"texts": ["nobody"]}, BadJobError, "'nobody' must be USER@HOST:PORT"),
        ({"texts": ["a@192.0.2.1:22", "b@192.0.2.1:22"]}, BadJobError, "several users"),
        ({"texts": ["ci@192.0.2.1:22"] * 2}, InputError, "have the same host key"),
        ({"texts": ["ci@192.0.2.2:22"]}, InputError, "ssh-keyscan -p 22 -t ed25519 192.0.2.2"),
        ({"identity": None}, BadJobError, "needs --identity FILE"),
        ({"identity": Path("/none")}, InputError, "--identity /none cannot be read"),
        ({"known_hosts": Path("/none")}, InputError, "--known-hosts /none cannot be read"),
        ({"state": Path("/dev/null/x")}, InputError, "Give another --address-state"),
        ({"folder": "relative"}, BadJobError, "Give an absolute path"),
        ({"folder": "/"}, BadJobError, "below /"),
    ],
)
def test_bad_settings_say_what_is_wrong(
    good: dict[str, Any], change: dict[str, Any], kind: type[RunnerError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        lease_sources.addresses(**good | change)


def test_the_state_is_one_for_all_runners_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert lease_sources.default_state() == Path("/var/lib/runner/addresses")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert lease_sources.default_state() == Path("/state/runner/addresses")
