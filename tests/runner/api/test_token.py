"""The token that lets a client of the API in."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from runner.api.token import Token
from runner.errors import StateError


def test_it_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    Token(tmp_path / "token")
    value = (tmp_path / "token").read_text().strip()
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert Token(tmp_path / "token").admits(f"Bearer {value}")
    assert (tmp_path / "token").read_text().strip() == value


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic VALUE", "VALUE", "Bearer \u00fc"]
)
def test_everything_else_is_kept_out(tmp_path: Path, header: str | None) -> None:
    token = Token(tmp_path / "token")
    value = (tmp_path / "token").read_text().strip()
    assert not token.admits(header and header.replace("VALUE", value))


def test_an_emptied_file_lets_nobody_in(tmp_path: Path) -> None:
    """The trap: an empty token is equal to an empty header."""
    (tmp_path / "token").touch()
    with pytest.raises(StateError, match="too short"):
        Token(tmp_path / "token")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is not usable"):
        Token(tmp_path / "missing" / "token")


def test_one_that_is_given_takes_the_place_of_the_one_that_was_made(tmp_path: Path) -> None:
    Token(tmp_path / "token")
    made = (tmp_path / "token").read_text().strip()
    token = Token(tmp_path / "token", SecretStr("given by somebody"))
    assert (token.admits(f"Bearer {made}"), token.admits("Bearer given by somebody")) == (False, True)
    assert (tmp_path / "token").read_text() == "given by somebody\n"
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert Token(tmp_path / "token").admits("Bearer given by somebody")
