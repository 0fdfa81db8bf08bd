"""The `sandbox` command as a user meets it: every error is one line and an exit code, never a traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import which
from typing import IO

import pytest

from sandbox import entry, network
from sandbox.keeper import ping, protocol
from tests.sandbox.keeper.test_server_client import Script, serving
from tests.sandbox.test_engine import FOREIGN, MINE, Api, api  # noqa: F401 - fixtures

SETPRIV = which("setpriv")
NOBODY = 65534


class Command:
    """Runs `sandbox` in a folder of its own, with no engine but the one a test names."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in [name for name in os.environ if name.startswith(("SANDBOX_", "DOCKER_"))]:
            monkeypatch.delenv(name)
        self.set("XDG_STATE_HOME", str(folder / "state"))
        self.set("DOCKER_HOST", f"unix://{folder}/no-engine.sock")

    def set(self, name: str, value: str) -> None:
        self._monkeypatch.setenv(name, value)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the entry point here; anything but an exit fails the test with its traceback."""
        self._monkeypatch.setattr(sys, "argv", ["sandbox", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            entry.main()
        code = caught.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *self._capsys.readouterr())

    def start(self, *arguments: str | Path, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a process of its own, for what cannot be seen here; `before` is what starts it."""
        return subprocess.Popen(
            [*before, sys.executable, "-m", "sandbox.entry", *arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fails(self, *arguments: str | Path, before: Sequence[str] = ()) -> tuple[int, str]:
        """The exit code and the one line."""
        if before:
            with self.start(*arguments, before=before) as process:
                try:
                    output, errors = process.communicate(timeout=20)
                finally:
                    process.kill()
            code = process.returncode
        else:
            done = self.run(*arguments)
            code, output, errors = done.returncode, done.stdout, done.stderr
        assert output == ""
        [line] = errors.splitlines()
        assert line.startswith("sandbox: ")
        assert len(line) < 600
        return code, line

    def keeper(self, *more: str | Path) -> tuple[str | Path, ...]:
        return "keeper", "--run-folder", self.folder / "run", "--home", self.folder / "home", *more


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """A keeper that answers on `tmp_path`/run/keeper/socket."""
    made = Script()
    with serving(tmp_path / "run", made):
        yield made


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["ls", "ping"])
def test_no_keeper(command: Command, verb: str) -> None:
    code, line = command.fails(verb, "--keeper", command.folder / "nothing.sock")
    assert code == 69
    assert "docker compose up" in line


@pytest.mark.parametrize("verb", ["ls", "ping"])
def test_a_keeper_that_talks_nonsense(command: Command, verb: str) -> None:
    path = command.folder / "odd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 welcome\n")

        thread = threading.Thread(target=answer)
        thread.start()
        code, line = command.fails(verb, "--keeper", path)
        thread.join(5)
    assert code == 69
    assert "same release" in line


def test_no_engine(command: Command) -> None:
    for arguments in (command.keeper(), ("purge", "--all")):
        code, line = command.fails(*arguments)
        assert code == 69
        assert "No Docker Engine answers" in line


def test_a_keeper_that_cannot_start_leaves_no_socket(command: Command) -> None:
    command.fails(*command.keeper())
    code, line = command.fails("ping", "--keeper", command.folder / "run" / "keeper" / "socket")
    assert code == 69
    assert "There is no keeper socket" in line


@pytest.mark.parametrize("text", ["[profiles.default]\nwarm = 0", "warm ="])
def test_a_wrong_configuration(command: Command, text: str) -> None:
    (command.folder / "keeper.toml").write_text(text)
    code, line = command.fails(*command.keeper("--config", command.folder / "keeper.toml"))
    assert code == 78
    assert "keeper.toml" in line
    assert not (command.folder / "home").exists()


def test_a_missing_configuration(command: Command) -> None:
    code, line = command.fails(*command.keeper("--config", command.folder / "nothing.toml"))
    assert code == 78
    assert "nothing.toml does not exist" in line


def test_a_home_that_is_no_folder(command: Command) -> None:
    (command.folder / "home").touch()
    code, line = command.fails(*command.keeper())
    assert code == 78
    assert "home is not usable" in line


def test_a_run_folder_that_others_use(command: Command) -> None:
    (command.folder / "run" / "docker").mkdir(parents=True)
    code, line = command.fails(*command.keeper())
    assert code == 78
    assert "give the keeper its own" in line


def test_an_unknown_group(command: Command) -> None:
    code, line = command.fails(*command.keeper("--group", "no-such-group"))
    assert code == 78
    assert "no-such-group" in line


@pytest.mark.skipif(os.geteuid() != 0 or SETPRIV is None, reason="needs root, and setpriv of util-linux")
def test_permissions_that_are_missing(command: Command, script: Script) -> None:
    powers = "-dac_override,-dac_read_search"  # without them even root is held to a folder's mode
    before = [str(SETPRIV), "--bounding-set", powers, "--inh-caps", powers]
    (command.folder / "closed").mkdir()
    for folder in ("run", "closed"):
        os.chown(command.folder / folder, NOBODY, NOBODY)
        (command.folder / folder).chmod(0o700)
    code, line = command.fails("ping", "--keeper", command.folder / "run" / "keeper" / "socket", before=before)
    assert code == 69
    assert "No permission to open the keeper's socket" in line
    code, line = command.fails(
        "keeper", "--run-folder", command.folder / "own", "--home", command.folder / "closed" / "home", before=before
    )
    assert code == 78
    assert "Permission denied" in line


def test_a_wrong_option_is_a_usage_error(command: Command) -> None:
    done = command.run("keeper", "--privileged")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# -- a keeper that answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [True, False], ids=["as a person", "as a health check"])
def test_ping_says_whether_it_is_fit(command: Command, script: Script, options: bool) -> None:
    path = command.folder / "run" / "keeper" / "socket"
    command.set("SANDBOX_KEEPER", "/nowhere" if options else str(path))
    words = ["ping", *(["--keeper", str(path)] if options else [])]
    done = command.run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    script.ping = lambda: protocol.Pong(fit=False, message="No sandbox for: default.")  # type: ignore[method-assign]
    done = command.run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "No sandbox for: default.\n", "")


def test_a_health_check_that_is_refused_says_why(
    command: Command, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ping, "REQUEST", ping.REQUEST.replace(b"2", b"3"))
    code, line = command.fails("ping", "--keeper", command.folder / "run" / "keeper" / "socket")
    assert code == 69
    assert "did not understand the request: version" in line


def test_a_health_check_asks_in_the_words_of_the_protocol() -> None:
    assert protocol.encode_request(protocol.Ping()) == ping.REQUEST


def test_metrics_are_printed_as_they_are(command: Command, script: Script) -> None:
    done = command.run("metrics", "--keeper", command.folder / "run" / "keeper" / "socket")
    assert (done.returncode, done.stdout, done.stderr) == (0, "sandbox_warm 2.0\n", "")


def test_ls_is_for_machines_too(command: Command, script: Script) -> None:
    command.set("SANDBOX_KEEPER", str(command.folder / "run" / "keeper" / "socket"))
    done = command.run("ls", "--json")
    assert json.loads(done.stdout) == {
        "installation": "0123abcd",
        "host": "well",
        "trouble": "",
        "sandboxes": [],
        "condemned": [],
        "counts": {},
        "adhoc": [],
    }
    assert command.run("ls").returncode == 0


# -- with an engine ---------------------------------------------------------------------------------------------------


def use(command: Command, api: Api) -> None:  # noqa: F811
    api.say("GET", "/images/sandbox:latest/json", 200, {"Id": "sha256:1"})
    command.set("DOCKER_HOST", api.url)


def test_a_missing_runtime_ends_the_keeper(command: Command, api: Api) -> None:  # noqa: F811
    use(command, api)
    command.set("SANDBOX_RUNTIME", "kata")
    done = command.run(*command.keeper())
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1].startswith("sandbox: The runtime kata is not registered")
    assert "Traceback" not in done.stderr


def test_the_keeper_lives_where_its_file_says_and_hup_tells_what_is_for_the_next_start(
    command: Command,
    api: Api,  # noqa: F811
) -> None:
    use(command, api)
    api.say("POST", "/networks/create", 500, {"message": "no networks today"})
    file, folder = command.folder / "keeper.toml", command.folder
    text = f'home = "{folder}/home"\nrun_folder = "{folder}/run"\ngroup = "{os.getegid()}"\nlog.format = "json"\n'
    file.write_text(text)
    with command.start("keeper", "--config", file, "--patience", "7") as process:
        try:
            assert process.stderr is not None
            told_of(process.stderr, "no networks today")
            assert (folder / "home" / "installation").exists()
            assert (folder / "run").stat().st_mode & 0o777 == 0o710  # the group's
            file.write_text(f"{text}patience = 9\n".replace("json", "text").replace("/home", "/other"))
            process.send_signal(signal.SIGHUP)
            told = told_of(process.stderr, "not taken up before the next start")
            assert told["message"] == "not taken up before the next start: home, log.format"
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0


def told_of(log: IO[str], what: str) -> dict[str, str]:
    """The first event of the log, as JSON, whose sentence has this in it."""
    for line in log:
        event: dict[str, str] = json.loads(line)
        if what in event["message"]:
            return event
    pytest.fail(f"the log ended without {what}")


def test_purge_removes_one_installation_or_every_one(
    command: Command,
    api: Api,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(command, api)
    monkeypatch.setattr(network, "walled", set)  # this host's are not the test's
    api.things["containers"] = [{"Id": "mine", "Labels": MINE}, {"Id": "foreign", "Labels": FOREIGN}]
    done = command.run("purge", "--installation", "0123abcd", "--json")
    assert json.loads(done.stdout) == {"removed": {"0123abcd": 1}}
    assert [thing["Id"] for thing in api.things["containers"]] == ["foreign"]
    assert command.run("purge", "--all").returncode == 0
    assert api.things["containers"] == []


def test_purge_finds_a_firewall_table_without_a_sandbox(command: Command, api: Api) -> None:  # noqa: F811
    use(command, api)
    purge = f"{sys.executable} -m sandbox.entry purge --installation 0123abcd"
    tables = "nft add table inet sandbox_0123abcd; nft add table inet sandbox_99999999"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", f"{tables}; {purge}; nft list tables"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[1:] == ["table inet sandbox_99999999"], done.stderr


def test_purge_guesses_nothing_and_tells_what_there_is(
    command: Command,
    api: Api,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(command, api)
    monkeypatch.setattr(network, "walled", set)
    api.things["containers"] = [{"Id": "mine", "Labels": MINE}, {"Id": "foreign", "Labels": FOREIGN}]
    code, line = command.fails("purge")
    assert code == 78
    assert "0123abcd, 99999999" in line
    code, line = command.fails("purge", "--installation", "0123abc")
    assert code == 66
    assert "nothing of an installation 0123abc. On this engine: 0123abcd, 99999999" in line
    assert len(api.things["containers"]) == 2


def test_a_second_keeper_is_refused_before_it_touches_the_firsts_sandboxes(
    command: Command,
    api: Api,  # noqa: F811
    script: Script,
) -> None:
    use(command, api)
    home = command.folder / "home"
    home.mkdir()
    (home / "installation").write_text("0123abcd\n")
    api.things["containers"] = [{"Id": "mine", "Labels": MINE}]
    code, line = command.fails(*command.keeper())
    assert code == 78
    assert "Another keeper answers" in line
    assert api.things["containers"] != []


def test_the_keeper_serves_and_ends_with_term(command: Command, api: Api) -> None:  # noqa: F811
    use(command, api)
    path = command.folder / "run" / "keeper" / "socket"
    # No sandbox can be made with this engine; the keeper answers all the same, and says why.
    api.say("POST", "/networks/create", 500, {"message": "no networks today"})
    with command.start(*command.keeper()) as process:
        try:
            assert process.stderr is not None
            while "no networks today" not in process.stderr.readline():
                assert process.poll() is None
            done = command.run("ping", "--keeper", path)
            assert done.returncode == 1
            assert "no networks today" in done.stdout
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not path.exists()
