"""The records of a user's sandboxes: private, one for a name, and never lost or mixed up."""

import os
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.adhoc import anywhere, options, ssh_config
from sandbox.adhoc.record import Record
from sandbox.adhoc.store import Store, default_folder
from sandbox.errors import ConfigError, NameInUse, NoSuchSandbox
from tests.sandbox.adhoc.records import record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def test_a_record_is_read_as_it_was_written(store: Store) -> None:
    """The trap: port ranges in its policy were once written in a form that could not be read again."""
    mine = record(store)
    store.claim(mine)
    assert Store(store.folder).records() == [mine]


def test_keys_are_for_nobody_else(store: Store) -> None:
    store.claim(record(store))
    text = ssh_config.write(store, store.get("mine"))
    assert "Host mine.sandbox\n" in text
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    files = [path for path in store.folder.rglob("*") if path.is_file() and path.name != "installation"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert "PRIVATE KEY" not in repr(store.get("mine"))
    store.drop(store.get("mine"))
    assert not store.ssh_folder("mine").exists()


def test_a_shell_completes_names_and_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert options.own_names("") == []
    assert not default_folder().exists()
    for number, name in enumerate(("mine", "mail", "other")):
        made = Store(default_folder())
        made.claim(record(made, name, number, made=float(number)))
    assert options.own_names("m") == ["mine", "mail"]
    (default_folder() / "other.json").write_text("{}")
    assert options.own_names("m") == []


def test_a_name_is_had_once(store: Store) -> None:
    store.claim(record(store))
    with pytest.raises(NameInUse, match="sandbox rm mine"):
        store.claim(record(store, generation=2))


def test_an_earlier_creation_does_not_touch_a_later_one_of_its_name(store: Store) -> None:
    earlier, later = record(store), record(store, generation=2)
    store.claim(later)
    store.drop(earlier)
    with pytest.raises(NoSuchSandbox):
        store.change(earlier, lambda now: now)
    assert store.records() == [later]


def test_hold_keeps_what_a_creation_writes_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the sandbox is for ever one that is still being made, and the walls close its bridge."""
    making, made = record(store, access=None), record(store)
    store.claim(making)

    def read(name: str) -> Record:
        found = store.get(name)
        store.change(making, lambda _: made)
        return found

    monkeypatch.setattr(anywhere, "_own_record", read)
    monkeypatch.setattr(options, "machines", lambda: SimpleNamespace(store=store))
    anywhere.hold("mine", hours=24)
    held = store.get("mine")
    assert held.ends > made.ends
    assert held.idle is None
    assert held == made.model_copy(update={"ends": held.ends, "idle": None})


def test_a_record_that_cannot_be_read_is_told_and_kept(store: Store) -> None:
    """Another version may have written it. Its name is had, its keys are shown to nobody, and none acts as without."""
    mine = record(store)
    store.claim(mine)
    place = store.folder / "mine.json"
    written = place.read_text().replace('"life":', '"lives":')
    place.write_text(written)
    for use in (
        store.records,
        lambda: store.get("mine"),
        lambda: store.claim(mine),
        lambda: store.change(mine, lambda now: now),
    ):
        with pytest.raises(ConfigError, match=re.escape(str(place))) as told:
            use()
        assert "PRIVATE KEY" not in str(told.value)
    assert place.read_text() == written
    assert not store.is_empty()


def test_a_record_that_cannot_be_opened_is_not_taken_for_none(store: Store) -> None:
    """As when too many files are open."""
    (store.folder / "mine.json").mkdir()
    with pytest.raises(ConfigError, match=r"mine.*cannot be read"):
        store.records()


@pytest.mark.parametrize("name", ["../lock", "", "Mine", "nothing", "x" * 41])
def test_there_is_no_such_name(store: Store, name: str) -> None:
    with pytest.raises(NoSuchSandbox, match="sandbox ls"):
        store.get(name)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="XDG_STATE_HOME"):
        Store(tmp_path / "file" / "state")


def test_another_engine_has_another_folder() -> None:
    here = {"XDG_STATE_HOME": "/state"}
    one, other = default_folder(here), default_folder({**here, "DOCKER_HOST": "unix:///other.sock"})
    assert one != other
    assert one.parent == other.parent == Path("/state/sandbox")
    assert default_folder({"HOME": "/home/me"}).parent == Path("/home/me/.local/state/sandbox")


def test_use_is_remembered(store: Store) -> None:
    mine = record(store)
    store.claim(mine)
    os.utime(store.folder / "mine.json", (1000, 1000))
    assert store.last_used(mine) == 1000
    store.use(mine, 2000)
    store.use(mine, 1500)
    assert store.last_used(mine) == 2000


def test_one_of_the_keepers_is_told_apart_from_none(store: Store) -> None:
    """`sandbox ls` lists both, and `rm` or `cp` take one's own only."""
    with pytest.raises(NoSuchSandbox, match=r"If it is the keeper's: .* `sandbox release` throws it away"):
        store.get("sandbox-0123abcd-7")
