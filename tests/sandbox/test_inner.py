"""The probe's program, run as inside a sandbox, against a Docker API of the test."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from sandbox import readiness

INFO = {"Driver": "overlay2", "ServerVersion": "26.1.5", "Swarm": {"LocalNodeState": "inactive"}}


@dataclass
class Docker:
    """What the API answers, and what it was asked."""

    path: Path
    info: list[tuple[int, object]] = field(default_factory=lambda: [(200, INFO)])
    """What /info answers one after the other; the last one from then on."""
    containers: dict[str, list[int]] = field(default_factory=dict)
    """By id: what removing it answers, one after the other; one below 300 really removes it."""
    exit_code: int = 0
    """What a container that was made here ends with."""
    volumes: list[str] | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    """By path: another status than 204 for what is not listed above."""
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str) -> tuple[int, object]:
        self.asked.append(f"{method} {path}")
        tried = {
            "POST /images/create": {"status": "sha256:image"},
            "POST /containers/create": {"Id": "one"},
            "POST /containers/one/wait": {"StatusCode": self.exit_code},
        }
        if body := tried.get(f"{method} {path.split('?', maxsplit=1)[0]}"):
            return 200, body
        match method, path.split("?", maxsplit=1)[0].split("/")[1:]:
            case "GET", ["info"]:
                return self.info.pop(0) if len(self.info) > 1 else self.info[0]
            case "GET", ["containers", "json"]:
                return 200, [{"Id": key} for key in self.containers]
            case "DELETE", ["containers", key]:
                status = self.containers[key].pop(0)
                if status < 300 or status == 404:
                    del self.containers[key]
                return status, {"message": "so it is"}
            case "GET", ["volumes"]:  # an engine without any says null
                return 200, {"Volumes": [{"Name": name} for name in self.volumes] if self.volumes else None}
        status = self.statuses.get(path.split("?", maxsplit=1)[0], 204)
        return status, None if status == 204 else {"message": "it is broken"}


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    docker: Docker


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _any(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.server.docker.answer(self.command, self.path)
        if status == 0:  # hang up without a word, as an engine that is being restarted does
            return
        self.send_response_only(status)
        self.end_headers()
        if body is not None:
            self.wfile.write(json.dumps(body, separators=(",", ":")).encode() + b"\n")  # as Docker has it

    do_GET = do_DELETE = do_POST = _any  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Docker]:
    made = Docker(tmp_path / "docker.sock")
    with _Server(str(made.path), _Handler) as server:
        server.docker = made
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join(5)


def run(
    socket: Path,
    folders: list[Path] | None = None,
    seconds: float = 10.0,
    kept: tuple[str, ...] = (),
    *,
    container: bool = False,
) -> dict[str, object]:
    """Send the program as `readiness` does, with another Docker socket."""
    clean = None if folders is None else {"folders": {str(f): list(kept) for f in folders}, "build_cache": 1000}
    program = readiness.program({"nonce": "n", "clean": clean, "container": container, "seconds": seconds})
    for constant, value, other in (
        ("DOCKER_SOCKET", "/var/run/docker.sock", str(socket)),
        ("PROGRAM", "/bin/busybox", "/bin/true"),
    ):
        before = f'{constant} = "{value}"'.encode()
        assert program.count(before) == 1
        program = program.replace(before, f"{constant} = {other!r}".encode())
    done = subprocess.run([sys.executable, "-I", "-S", "-"], input=program, capture_output=True, timeout=30, check=True)
    assert done.stderr == b""
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    assert answer["nonce"] == "n"
    return answer


@pytest.mark.parametrize(
    ("exit_code", "start", "error"),
    [
        (0, 204, None),
        (1, 204, "ValueError: one that does nothing ended with 1"),
        (0, 500, """ValueError: POST /containers/one/start was answered with 500: {"message":"it is broken"}"""),
    ],
)
def test_a_container_is_tried_and_nothing_stays(docker: Docker, exit_code: int, start: int, error: str | None) -> None:
    docker.exit_code, docker.statuses = exit_code, {"/containers/one/start": start}
    docker.containers["one"] = [204]
    assert run(docker.path, container=True)["error"] == error
    assert docker.asked[-2:] == ["DELETE /containers/one?force=1&v=1", "DELETE /images/sha256:image"]


def test_it_answers_what_docker_says(docker: Docker) -> None:
    answer = run(docker.path)
    assert answer.pop("clock") == pytest.approx(time.time(), abs=60)
    assert answer == {"nonce": "n", "info": INFO, "error": None}


def test_without_the_order_nothing_is_removed(docker: Docker) -> None:
    docker.containers["a"] = [204]
    run(docker.path)
    assert docker.asked == ["GET /info"]


def test_it_waits_until_docker_answers(docker: Docker) -> None:
    docker.info = [(500, {"message": "starting"}), (0, None), (200, {}), (200, []), (200, INFO)]
    assert run(docker.path)["info"] == INFO
    assert len(docker.asked) == 5


def test_a_docker_that_does_not_answer_is_told_in_time(tmp_path: Path) -> None:
    answer = run(tmp_path / "nothing.sock", seconds=0.1)
    assert answer["info"] is None
    assert "FileNotFoundError" in str(answer["error"])


def test_a_docker_that_hangs_is_told_in_time(tmp_path: Path) -> None:
    with ThreadingUnixStreamServer(str(tmp_path / "hang.sock"), BaseHTTPRequestHandler):  # listens, never accepts
        answer = run(tmp_path / "hang.sock", seconds=0.3)
    assert answer["info"] is None
    assert "imeout" in str(answer["error"])


def test_it_removes_containers_volumes_and_networks(docker: Docker) -> None:
    docker.containers = {"a": [204], "b": [204]}
    docker.volumes = ["data", "odd name"]
    assert run(docker.path, [])["error"] is None
    assert docker.containers == {}
    assert [line for line in docker.asked if not line.startswith("GET")] == [
        "DELETE /containers/a?force=1&v=1",
        "DELETE /containers/b?force=1&v=1",
        "DELETE /volumes/data?force=1",
        "DELETE /volumes/odd%20name?force=1",
        "POST /networks/prune",
        "POST /build/prune?all=1&keep-storage=1000",
    ]


def test_a_swarm_is_left(docker: Docker) -> None:
    """The trap: it would start its services' containers again, as fast as they are removed."""
    docker.info = [(200, {**INFO, "Swarm": {"LocalNodeState": "active"}})]
    assert run(docker.path, [])["error"] is None
    assert "POST /swarm/leave?force=1" in docker.asked


def test_what_went_by_itself_is_no_error(docker: Docker) -> None:
    docker.containers = {"a": [404], "b": [204]}
    docker.volumes = ["data"]
    docker.statuses["/volumes/data"] = 404
    assert run(docker.path, [])["error"] is None


def test_a_container_that_docker_removes_already_is_waited_for(docker: Docker) -> None:
    docker.containers = {"run-with-rm": [409, 409, 404], "restarts": [500, 204], "b": [204]}
    assert run(docker.path, [])["error"] is None
    assert docker.containers == {}


def test_a_container_that_never_goes_is_told_in_time(docker: Docker) -> None:
    docker.containers["a"] = [500] * 10_000
    assert 'DELETE /containers/a?force=1&v=1 was answered with 500: {"message":"so it is"}' in str(
        run(docker.path, [], seconds=0.2)["error"]
    )


def test_a_failing_prune_is_told(docker: Docker) -> None:
    docker.statuses["/networks/prune"] = 500
    answer = run(docker.path, [])
    assert "/networks/prune was answered with 500" in str(answer["error"])
    assert answer["info"] is not None


def test_folders_are_emptied_and_stay(docker: Docker, tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "file").write_text("x")
    (folder / ".hidden").touch()
    os.mkfifo(folder / "fifo")
    (folder / "read-only").mkdir(mode=0o500)
    assert run(docker.path, [folder])["error"] is None
    assert list(folder.iterdir()) == []


def test_what_was_there_at_ready_stays(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for name in (".bashrc", ".bash_login", "bashrc"):
        (tmp_path / "home" / name).touch()
    assert run(docker.path, [tmp_path / "home"], kept=(".bashrc", "gone"))["error"] is None
    assert [path.name for path in (tmp_path / "home").iterdir()] == [".bashrc"]


def test_a_link_in_a_folder_is_unlinked_and_its_target_untouched(docker: Docker, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    folder = tmp_path / "workspace"
    (folder / "deep").mkdir(parents=True)
    for link in (folder / "link", folder / "deep" / "link"):
        link.symlink_to(outside)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    assert run(docker.path, [folder])["error"] is None
    assert list(folder.iterdir()) == []
    assert (outside / "kept").read_text() == "x"


def test_a_folder_that_became_a_link_is_told_and_not_followed(docker: Docker, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (tmp_path / "workspace").symlink_to(outside)
    assert "is a link" in str(run(docker.path, [tmp_path / "workspace"])["error"])
    assert (outside / "kept").read_text() == "x"


def test_a_folder_that_the_job_removed_is_told(docker: Docker, tmp_path: Path) -> None:
    """The trap: after `rm -rf /tmp` there is nothing to empty, and nothing for the next job to work in."""
    assert "nothing is no folder any more" in str(run(docker.path, [tmp_path / "nothing"])["error"])


def test_a_folder_that_became_a_file_is_told(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "workspace").touch()
    assert "is no folder any more" in str(run(docker.path, [tmp_path / "workspace"])["error"])
