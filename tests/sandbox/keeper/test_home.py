"""The keeper's state folder: its data survives a restart, and an unusable folder is reported."""

from pathlib import Path

import pytest

from sandbox.errors import ConfigError
from sandbox.keeper.home import Home


def test_a_new_home_has_an_installation_of_eight_hex_digits(tmp_path: Path) -> None:
    assert len(bytes.fromhex(Home(tmp_path / "home").installation)) == 4


def test_two_homes_are_two_installations(tmp_path: Path) -> None:
    assert Home(tmp_path / "one").installation != Home(tmp_path / "two").installation


def test_the_installation_survives_a_restart(tmp_path: Path) -> None:
    first = Home(tmp_path).installation
    assert Home(tmp_path).installation == first


def test_no_generation_is_given_twice_however_often_the_keeper_restarts(tmp_path: Path) -> None:
    def one_life() -> list[int]:
        home = Home(tmp_path)
        return [home.next_generation() for _ in range(3)]

    assert one_life() + one_life() + one_life() == list(range(1, 10))


def test_a_home_belongs_to_one_keeper_at_a_time(tmp_path: Path) -> None:
    """The trap: two keepers of one installation take each other's sandboxes for leftovers."""
    first = Home(tmp_path)
    with pytest.raises(ConfigError, match="Another keeper uses the state folder"):
        Home(tmp_path)
    del first
    Home(tmp_path)


def test_a_generation_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    generation = Home(tmp_path).next_generation()
    assert int((tmp_path / "generation").read_text()) == generation


def test_the_folder_is_closed_to_others(tmp_path: Path) -> None:
    Home(tmp_path / "a" / "home")
    assert (tmp_path / "a" / "home").stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/home is not usable"):
        Home(tmp_path / "file" / "home")


@pytest.mark.parametrize("content", ["", "twelve", "1.5"])
def test_a_generation_that_is_no_number_is_told_and_not_started_anew(tmp_path: Path, content: str) -> None:
    Home(tmp_path)
    (tmp_path / "generation").write_text(content)
    with pytest.raises(ConfigError, match="not usable"):
        Home(tmp_path)


@pytest.mark.parametrize("content", ["", "everything", "0123abcd\n4567ef01", "0123ABCD"])
def test_an_installation_that_was_tampered_with_is_told(tmp_path: Path, content: str) -> None:
    Home(tmp_path)
    (tmp_path / "installation").write_text(content)
    with pytest.raises(ConfigError, match="eight hex digits"):
        Home(tmp_path)


def test_a_generation_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (tmp_path / "generation.new").mkdir()  # root may write anywhere, but not over a folder
    with pytest.raises(ConfigError, match="not usable"):
        home.next_generation()


def test_a_failed_write_uses_its_number_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (tmp_path / "generation.new").mkdir()
    with pytest.raises(ConfigError):
        home.next_generation()
    (tmp_path / "generation.new").rmdir()
    assert home.next_generation() == 2
