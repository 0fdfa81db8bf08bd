"""The engine module against a Docker API of the test: deadlines, errors as sentences, and requests."""

import inspect
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Network
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import docker.errors
import pytest
import requests.exceptions

from sandbox.calls import CallBegan, CallEnded, End, Listed, Step
from sandbox.engine import Engine, ImageUnfit, NameTaken, NetworkMissing, StaleSocket
from sandbox.engine import api as engine_module
from sandbox.engine.call import MAX_ANSWER, Call
from sandbox.engine.refusal import in_our_words
from sandbox.errors import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    Fault,
    ImageMissing,
    RuntimeMissing,
    SandboxFault,
    StorageUnfit,
)
from sandbox.host import HostFacts
from sandbox.identity import new_identity
from sandbox.profile import Profile
from sandbox.template import ContainerSpec, InstallationId, SandboxName, container_spec
from tests.waiting import until

OURS = InstallationId("0123abcd")
NAME = SandboxName(OURS, 7)
HOST = HostFacts(nofile_ceiling=10**6, mtu=1500, nameservers=())
MINE = {"sandbox-runner.installation": "0123abcd", "sandbox-runner.name": "sandbox-0123abcd-7"}
FOREIGN = {"sandbox-runner.installation": "99999999", "sandbox-runner.name": "sandbox-99999999-1"}

HOST = HostFacts(nofile_ceiling=10**6, mtu=1400, nameservers=())

Answer = tuple[int, object]
DRIPS = -1
"""In place of a status: an answer that comes a byte at a time."""
Thing = dict[str, Any]


@dataclass
class Request:
    """One request, with its query and body understood."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    @property
    def json(self) -> Thing:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed


@dataclass
class Api:
    """A small engine that keeps containers, networks and volumes, and misbehaves as the test says."""

    url: str
    things: dict[str, list[Thing]] = field(
        default_factory=lambda: {"containers": [], "networks": [], "volumes": []},
    )
    special: dict[tuple[str, str], Callable[[], Answer]] = field(default_factory=dict)
    """By method and path: what is done instead."""
    asked: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def hang(self, method: str, path: str) -> None:
        def wait() -> Answer:
            self.over.wait(20)
            return 500, {"message": "too late"}

        self.special[method, path] = wait

    def say(self, method: str, path: str, status: int, body: object) -> None:
        self.special[method, path] = lambda: (status, body)

    def answer(self, request: Request) -> Answer:  # noqa: PLR0911 - one for each thing that is asked
        self.asked.append(request)
        if special := self.special.get((request.method, request.path)):
            return special()
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["version"]:
                return 200, {"ApiVersion": "1.47"}
            case "GET", ["info"]:
                return 200, info(Driver="overlay2", Runtimes={"runc": {}, "sysbox-runc": {}}, DockerRootDir="/")
            case "GET", ["containers", "json"] | ["networks"] | ["volumes"]:
                kind = request.path.strip("/").split("/")[0]
                wanted = json.loads(request.query.get("filters", "{}")).get("label", [])
                found = [thing for thing in self.things[kind] if _carries(thing["Labels"], wanted)]
                return 200, {"Volumes": found or None} if kind == "volumes" else found
            case "DELETE", [kind, key]:
                self.things[kind] = [t for t in self.things[kind] if key not in (t.get("Id"), t.get("Name"))]
                return 204, None
            case "POST", ["containers" | "networks" | "volumes", "create"]:
                return 201, {"Id": "new-id", "Name": "new", "Warnings": []}
            case "POST" | "PUT", _:
                return 204, None
        return 404, {"message": f"No such thing: {request.path}"}

    def done(self, method: str) -> list[str]:
        return [request.path for request in self.asked if request.method == method]


def _carries(labels: dict[str, str], wanted: list[str]) -> bool:
    pairs = (label.partition("=") for label in wanted)
    return all(labels.get(key) == value if mark else key in labels for key, mark, value in pairs)


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    api: Api


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _any(self) -> None:
        url = urlsplit(self.path)
        path = "/" + url.path.split("/", 2)[2] if url.path.startswith("/v1") else url.path
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = self.server.api.answer(Request(self.command, path, query, body))
        if status == 0:
            return
        if status == DRIPS:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            with suppress(OSError):  # it was given up
                while not self.server.api.over.wait(0.02):
                    self.wfile.write(b" ")
            return
        sent = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        with suppress(BrokenPipeError):  # it was given up
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

    do_GET = do_DELETE = do_POST = do_PUT = do_HEAD = _any  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    path = tmp_path / "docker.sock"
    made = Api(f"unix://{path}")
    with _Server(str(path), _Handler) as server:
        server.api = made
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.over.set()
        server.shutdown()
        thread.join(5)


@pytest.fixture
def engine(api: Api) -> Engine:
    return Engine(api.url)


@pytest.fixture
def spec() -> ContainerSpec:
    profile = Profile(cpuset="0-1", cpus=1.5)
    return container_spec(NAME, "default", profile, new_identity(str(NAME)), IPv4Network("10.213.0.56/29"), HOST)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _refused(act: Callable[[], object]) -> None:
    with pytest.raises(EngineError):
        act()


def _told(error: Exception) -> Exception:
    return in_our_words(Step.LIST, error, Call("/nowhere", 60), 60)


CONTAINER = {
    "Id": "abc",
    "State": {"Status": "running", "Pid": 4711, "OOMKilled": False, "ExitCode": 0},
    "HostConfig": {"Runtime": "sysbox-runc"},
    "NetworkSettings": {"Networks": {"n": {"IPAddress": "10.213.0.58"}}},
}


# -- nobody there, or too late ----------------------------------------------------------------------------------------


def test_no_socket_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match=r"No Docker Engine answers.*systemctl start docker"):
        Engine(f"unix://{tmp_path}/nothing.sock").owned(OURS)


def test_the_environments_engine_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    monkeypatch.setenv("DOCKER_HOST", api.url)
    assert Engine().owned(OURS) == []


def test_a_nonsensical_docker_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "carrier-pigeon://loft")
    with pytest.raises(EngineUnreachable, match="DOCKER_HOST"):
        Engine().owned(OURS)


def test_no_permission_is_told_with_who_may() -> None:
    # Root may open any socket, so the error is given here.
    told = _told(PermissionError(13, "Permission denied"))
    assert isinstance(told, EngineUnreachable)
    assert "docker group" in str(told)


def test_an_engine_elsewhere_is_refused_with_the_reason() -> None:
    """The trap: its containers' processes could be neither seen nor ended from here."""
    with pytest.raises(EngineUnreachable, match=r"tcp://192\.0\.2\.1:2375.*must be on this host"):
        Engine("tcp://192.0.2.1:2375").owned(OURS)


def test_a_mounted_socket_whose_engine_was_restarted_is_told_from_an_engine_that_is_down(tmp_path: Path) -> None:
    """The trap: a bind mount keeps the inode of a socket that a restarted engine replaced; nobody answers it again."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    with pytest.raises(EngineUnreachable) as down:
        Engine(f"unix://{path}").owned(OURS)
    assert not isinstance(down.value, StaleSocket)
    held = os.open(path, os.O_PATH)  # what a bind mount does: it keeps the inode reachable, by this path
    path.unlink()
    try:
        with pytest.raises(StaleSocket, match="Restart this container"):
            Engine(f"unix:///proc/self/fd/{held}").owned(OURS)
    finally:
        os.close(held)


@pytest.mark.parametrize(("method", "path"), [("GET", "/containers/json"), ("GET", "/version")])
def test_an_engine_that_hangs_is_given_up_in_time(
    api: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    api.hang(method, path)
    began = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"did not finish 'list' within 0 s"):
        engine._call(Step.LIST, lambda client: client.containers(), 0.3)
    assert time.monotonic() - began < 0.3 + 0.7


def test_an_answer_in_drips_is_given_up_in_time_and_nothing_of_the_call_is_left(api: Api, engine: Engine) -> None:
    """The trap: docker-py's timeouts are per read, so this one would never end by them."""
    engine.owned(OURS)
    api.say("GET", "/containers/json", DRIPS, None)
    threads, files = threading.active_count(), _open_files()
    began = time.monotonic()
    with pytest.raises(EngineTimeout):
        engine._call(Step.LIST, lambda client: client.containers(), 0.3)
    assert time.monotonic() - began < 0.3 + 0.7
    # Fewer, where the server was not yet done with the first question.
    until("the server noticed", lambda: threading.active_count() <= threads and _open_files() <= files)


def test_an_endless_answer_is_dropped(api: Api, engine: Engine) -> None:
    api.say("GET", "/containers/json", 200, b" " * (MAX_ANSWER + 1))
    with pytest.raises(EngineError, match=f"more than {MAX_ANSWER} bytes"):
        engine.owned(OURS)


def test_calls_beyond_the_bound_wait_no_longer_than_their_deadline(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MOST_CALLS", 1)
    engine = Engine(api.url)
    api.hang("GET", "/networks")
    first = threading.Thread(target=_refused, args=[engine.taken_subnets])
    first.start()
    until("one is under way", lambda: "/networks" in api.done("GET"))
    with pytest.raises(EngineTimeout, match="More than 1 calls"):
        engine._call(Step.LIST, lambda client: client.containers(), 0.1)
    api.over.set()
    first.join(5)
    assert engine.owned(OURS) == []


def test_a_call_that_was_given_up_does_not_keep_the_process(api: Api) -> None:
    program = (
        "from sandbox.engine import Engine\nfrom sandbox.errors import EngineTimeout\n"
        f"try: Engine({api.url!r})._call('list', lambda client: client.containers(), 0.3)\n"
        "except EngineTimeout: print('given up')\n"
    )
    api.hang("GET", "/containers/json")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=10, check=True)
    assert done.stdout == b"given up\n"


def test_the_next_call_after_one_that_hung_works(api: Api, engine: Engine) -> None:
    api.hang("GET", "/networks")
    with pytest.raises(EngineTimeout):
        engine._call(Step.LIST_NETWORKS, lambda client: client.networks(), 0.2)
    assert engine.owned(OURS) == []


def test_hanging_up_without_an_answer_is_told(api: Api, engine: Engine) -> None:
    api.say("GET", "/containers/json", 0, None)
    with pytest.raises(EngineUnreachable):
        engine.owned(OURS)


# -- errors become sentences ------------------------------------------------------------------------------------------


def test_a_refusal_is_a_sentence_with_the_engines_words(api: Api, engine: Engine) -> None:
    api.say("GET", "/containers/json", 500, {"message": "the disk is on fire"})
    with pytest.raises(EngineError, match=r"The Docker Engine refused 'list': the disk is on fire") as caught:
        engine.owned(OURS)
    assert type(caught.value) is EngineError


def test_a_refusal_at_length_is_cut(api: Api, engine: Engine) -> None:
    api.say("GET", "/containers/json", 500, {"message": "x" * 100_000})
    with pytest.raises(EngineError) as caught:
        engine.owned(OURS)
    assert len(str(caught.value)) < 1000


def _errors_of(module: object) -> list[type[Exception]]:
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Exception)]
    theirs = [kind for kind in found if kind.__module__.startswith(("docker", "requests"))]
    return [kind for kind in theirs if not issubclass(kind, Warning)]


@pytest.mark.parametrize(
    "kind",
    [*_errors_of(docker.errors), *_errors_of(requests.exceptions)],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_every_error_of_the_libraries_becomes_one_of_ours(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    error.args = ("it said no",)
    for name in ("response", "explanation", "param", "container", "command", "image", "msg", "reason", "name"):
        if not isinstance(getattr(type(error), name, None), property):
            setattr(error, name, None if name == "response" else "it said no")
    told = _told(error)
    assert isinstance(told, EngineError), f"{kind} went through as it was"
    assert "it said no" in str(told) or "No Docker Engine" in str(told) or "did not finish" in str(told)


def test_a_defect_of_ours_is_not_dressed_up_as_the_engines() -> None:
    defect = KeyError("Id")
    assert _told(defect) is defect


def test_a_misuse_of_the_library_does_not_read_as_an_engine_that_is_down() -> None:
    told = _told(docker.errors.NullResource("Resource ID was not provided"))
    assert not isinstance(told, EngineUnreachable)
    assert "Resource ID" in str(told)


# -- may sandboxes be made at all -------------------------------------------------------------------------------------


def test_everything_there_is_no_error(api: Api, engine: Engine) -> None:
    api.say("GET", "/images/sandbox:latest/json", 200, {"Id": "sha256:1"})
    engine.check("sysbox-runc", "sandbox:latest")


def test_a_missing_sysbox_is_told_with_where_to_get_it_and_what_else_there_is(api: Api, engine: Engine) -> None:
    api.say("GET", "/info", 200, {"Runtimes": {"runc": {}, "crun": {}}})
    with pytest.raises(RuntimeMissing, match=r"sysbox-runc is not registered.*crun, runc.*nestybox/sysbox.*userns"):
        engine.check("sysbox-runc", "sandbox:latest")


def test_another_missing_runtime_is_told_without_sysboxs_advice(engine: Engine) -> None:
    with pytest.raises(RuntimeMissing, match=r"runtime kata is not registered.*daemon\.json") as caught:
        engine.check("kata", "sandbox:latest")
    assert "nestybox" not in str(caught.value)


def test_an_engine_without_any_runtime_is_told(api: Api, engine: Engine) -> None:
    api.say("GET", "/info", 200, {"Runtimes": None})
    with pytest.raises(RuntimeMissing):
        engine.check("sysbox-runc", "sandbox:latest")


def test_a_missing_image_is_told_with_how_to_build_it(engine: Engine) -> None:
    with pytest.raises(ImageMissing, match=r"sandbox:latest is not on the Docker Engine.*sandbox images build"):
        engine.check("sysbox-runc", "sandbox:latest")


def test_an_image_may_be_named_by_its_id(api: Api, engine: Engine) -> None:
    api.say("GET", "/images/sha256:1234/json", 200, {"Id": "sha256:1234"})
    engine.check("sysbox-runc", "sha256:1234")


@pytest.mark.parametrize(
    ("driver", "status", "said"),
    [
        ("overlayfs", [["driver-type", "io.containerd.snapshotter.v1"]], "overlayfs of containerd's image store"),
        ("vfs", [], "driver is vfs, and"),
    ],
)
def test_a_storage_that_nobody_could_look_at_is_refused_with_the_fix(
    api: Api, engine: Engine, driver: str, status: list[list[str]], said: str
) -> None:
    """The first is what a fresh Docker 29 comes with."""
    api.say("GET", "/info", 200, info(Driver=driver, DriverStatus=status))
    with pytest.raises(StorageUnfit, match=rf'{said}.*"storage-driver": "overlay2".*daemon\.json and restart'):
        engine.check_storage()


def test_overlay2_is_not_refused(api: Api, engine: Engine) -> None:
    api.say("GET", "/info", 200, info(Driver="overlay2"))
    engine.check_storage()


def info(**more: object) -> Thing:
    return {"ServerVersion": "29.0", "Runtimes": {"runc": {}}, "DockerRootDir": "/var/lib/docker", **more}


# -- looking ----------------------------------------------------------------------------------------------------------


def test_facts_of_a_running_container(api: Api, engine: Engine) -> None:
    api.say("GET", "/containers/abc/json", 200, CONTAINER)
    facts = engine.facts("abc")
    assert (facts.running, facts.runtime, facts.init_pid, facts.address) == (True, "sysbox-runc", 4711, "10.213.0.58")


def test_a_container_that_is_gone_is_a_fault_of_the_sandbox(engine: Engine) -> None:
    with pytest.raises(SandboxFault, match="gone") as caught:
        engine.facts("abc")
    assert caught.value.fault is Fault.GONE


def test_a_container_that_ended_tells_how(api: Api, engine: Engine) -> None:
    state = {"Status": "exited", "Pid": 0, "OOMKilled": True, "ExitCode": 137}
    networks = {"Networks": {"n": {"IPAddress": ""}}}
    api.say("GET", "/containers/abc/json", 200, CONTAINER | {"State": state, "NetworkSettings": networks})
    facts = engine.facts("abc")
    assert (facts.running, facts.address) == (False, None)
    assert facts.status == "exited with code 137, killed for want of memory"


def test_a_paused_container_still_runs(api: Api, engine: Engine) -> None:
    """The trap: somebody who looks around pauses a sandbox, and it is taken for one that has ended."""
    api.say("GET", "/containers/abc/json", 200, CONTAINER | {"State": {"Status": "paused", "Pid": 1}})
    assert engine.facts("abc").running


def test_last_words_are_short_and_printable_and_never_an_error(api: Api, engine: Engine) -> None:
    api.say("GET", "/containers/abc/json", 200, CONTAINER | {"Config": {"Tty": True}})
    api.say("GET", "/containers/abc/logs", 200, b"x" * 5000 + b"\x1b[31mdied\n\xff")
    words = engine.last_words("abc")
    assert "died" in words
    assert words.isprintable()
    assert len(words) <= 600
    assert engine.last_words("unknown") == ""


def test_only_ones_own_are_listed(api: Api, engine: Engine) -> None:
    for labels, state in ((MINE, "running"), (FOREIGN, "running"), ({}, "running")):
        api.things["containers"].append({"Id": "x", "Labels": labels, "State": state, "Status": "Up"})
    assert [(found.name, found.running) for found in engine.owned(OURS)] == [(str(NAME), True)]
    assert [request.query["all"] for request in api.asked if request.path == "/containers/json"] == ["1"]


def test_subnets_of_every_network_are_taken(api: Api, engine: Engine) -> None:
    api.things["networks"] = [
        {"Labels": {}, "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}, {"Subnet": "fd00::/64"}]}},
        {"Labels": {}, "IPAM": {"Config": None}},
        {"Labels": {}, "IPAM": {"Config": [{"Gateway": "10.0.0.1"}]}},
        {"Labels": {}, "IPAM": {"Config": [{"Subnet": "10.1.2.3/24"}]}},
    ]
    assert engine.taken_subnets() == [IPv4Network("172.17.0.0/16"), IPv4Network("10.1.2.0/24")]


# -- making -----------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_has_limits_and_opens_nothing(api: Api, engine: Engine, spec: ContainerSpec) -> None:
    assert engine.create(spec) == "new-id"
    [request] = [request for request in api.asked if request.path == "/containers/create"]
    body, host = request.json, request.json["HostConfig"]
    assert request.query["name"] == str(NAME)
    assert (body["Image"], host["Runtime"], host["NetworkMode"]) == ("sandbox:latest", "sysbox-runc", str(NAME))
    assert body["Labels"] == dict(spec.labels)
    assert host["Memory"] == host["MemorySwap"] == spec.memory
    assert (host["PidsLimit"], host["CpusetCpus"], host["NanoCpus"]) == (8192, "0-1", 1_500_000_000)
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 65536, "Hard": 10**6}]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert [(mount["Type"], mount["Source"], mount["Target"]) for mount in host["Mounts"]] == [
        ("volume", str(NAME), "/var/lib/docker")
    ]
    walls = ("Privileged", "Binds", "CapAdd", "SecurityOpt", "Devices", "DeviceRequests", "PidMode", "IpcMode")
    namespaces = ("UsernsMode", "CgroupnsMode", "UTSMode", "CgroupParent", "PortBindings", "VolumesFrom", "Sysctls")
    assert {key: host[key] for key in (*walls, *namespaces) if host.get(key)} == {}
    assert body["Env"] == ["SANDBOX_DOCKER=eager"]


def test_the_given_files_are_put_in_before_the_start_with_their_modes(
    api: Api, engine: Engine, spec: ContainerSpec
) -> None:
    engine.create(spec)
    assert [request.path for request in api.asked if request.method in ("POST", "PUT")] == [
        "/volumes/create",
        "/containers/create",
        "/containers/new-id/archive",
    ]
    with tarfile.open(fileobj=io.BytesIO(api.asked[-1].body)) as archive:
        members = {entry.name: (oct(entry.mode), entry.uid, entry.gid) for entry in archive}
    assert members == {file.path.lstrip("/"): (oct(file.mode), 0, 0) for file in spec.files}


def test_no_key_is_in_what_the_engine_keeps(api: Api, engine: Engine, spec: ContainerSpec) -> None:
    engine.create(spec)
    [request] = [request for request in api.asked if request.path == "/containers/create"]
    assert b"PRIVATE" not in request.body
    assert b"ssh-ed25519" not in request.body


def test_the_network_is_a_bridge_with_our_name_and_subnet(api: Api, engine: Engine, spec: ContainerSpec) -> None:
    engine.create_network(spec)
    [request] = [request for request in api.asked if request.path == "/networks/create"]
    body = request.json
    assert (body["Name"], body["Driver"], body["Labels"]) == (str(NAME), "bridge", dict(spec.labels))
    assert body["IPAM"]["Config"][0]["Subnet"] == "10.213.0.56/29"
    assert body["Options"]["com.docker.network.bridge.name"] == spec.name.bridge
    assert body["Options"]["com.docker.network.driver.mtu"] == "1400"


# -- removing ---------------------------------------------------------------------------------------------------------


def populate(api: Api) -> None:
    other = MINE | {"sandbox-runner.name": "sandbox-0123abcd-8"}
    for kind in api.things:
        api.things[kind] = [
            {"Id": f"{kind}-{number}", "Name": f"{kind}-{number}", "Labels": labels}
            for number, labels in enumerate((MINE, other, FOREIGN, {}))
        ]


def left(api: Api) -> dict[str, list[str]]:
    return {kind: [thing["Name"].rpartition("-")[2] for thing in things] for kind, things in api.things.items()}


def test_one_sandbox_is_removed_with_everything_that_is_its(api: Api, engine: Engine) -> None:
    populate(api)
    assert engine.remove(OURS, str(NAME)) == 1
    assert left(api) == {kind: ["1", "2", "3"] for kind in api.things}


def test_an_installation_is_removed_and_nothing_foreign(api: Api, engine: Engine) -> None:
    populate(api)
    assert engine.remove(OURS) == 2
    assert left(api) == {kind: ["2", "3"] for kind in api.things}


def test_containers_go_before_the_networks_and_volumes_that_they_hold(api: Api, engine: Engine) -> None:
    populate(api)
    engine.remove(OURS, str(NAME))
    assert api.done("DELETE") == ["/containers/containers-0", "/networks/networks-0", "/volumes/volumes-0"]
    [request] = [request for request in api.asked if request.path == "/containers/containers-0"]
    assert (request.query["force"].lower(), request.query["v"].lower()) == ("true", "true")


def test_what_went_meanwhile_is_no_error(api: Api, engine: Engine) -> None:
    populate(api)
    api.say("DELETE", "/containers/containers-0", 404, {"message": "No such container"})
    assert engine.remove(OURS, str(NAME)) == 1


def test_nothing_to_remove_is_no_error(engine: Engine) -> None:
    assert engine.remove(OURS) == 0


def test_one_that_does_not_go_is_told_and_does_not_keep_the_others(api: Api, engine: Engine) -> None:
    populate(api)
    api.say("DELETE", "/containers/containers-0", 500, {"message": "device or resource busy"})
    with pytest.raises(EngineError, match="busy"):
        engine.remove(OURS)
    assert left(api) == {"containers": ["0", "2", "3"], "networks": ["2", "3"], "volumes": ["2", "3"]}


def test_one_whose_removal_hangs_does_not_keep_the_others(
    api: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "REMOVE_DEADLINE", 0.3)
    populate(api)
    api.hang("DELETE", "/containers/containers-0")
    began = time.monotonic()
    with pytest.raises(EngineTimeout, match="remove container"):
        engine.remove(OURS)
    assert time.monotonic() - began < 2
    assert left(api)["containers"] == ["0", "2", "3"]


def test_every_installation_is_found_by_whatever_it_left(api: Api, engine: Engine) -> None:
    for kind, installation in (("containers", "aaaaaaaa"), ("networks", "bbbbbbbb"), ("volumes", "cccccccc")):
        api.things[kind] = [{"Name": "x", "Labels": {"sandbox-runner.installation": installation}}]
    assert engine.installations() == {"aaaaaaaa", "bbbbbbbb", "cccccccc"}


# -- which step, and how it went --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "words", "kind"),
    [
        ("/containers/create", 404, "network sandbox-0123abcd-7 not found", NetworkMissing),
        ("/containers/create", 409, "Conflict. The container name is already in use", NameTaken),
        ("/containers/create", 500, "no space left on device", EngineError),
        ("/volumes/create", 500, "no space left on device", EngineError),
    ],
)
def test_a_refused_creation_says_what_can_be_done_about_it(
    api: Api, engine: Engine, spec: ContainerSpec, path: str, status: int, words: str, kind: type[EngineError]
) -> None:
    api.say("POST", path, status, {"message": words})
    with pytest.raises(EngineError, match=words) as caught:
        engine.create(spec)
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [404, 409, 500])
def test_files_that_cannot_be_put_in_do_not_read_as_a_name_conflict(
    api: Api, engine: Engine, spec: ContainerSpec, status: int
) -> None:
    """The trap: a creation that is tried again for any refusal then fails by its own first try's name."""
    api.say("PUT", "/containers/new-id/archive", status, {"message": "no space left on device"})
    with pytest.raises(EngineError, match=r"'put files'.*no space left") as caught:
        engine.create(spec)
    assert not isinstance(caught.value, NameTaken | NetworkMissing)


def test_a_network_that_is_missing_at_the_start_is_told(api: Api, engine: Engine) -> None:
    api.say("POST", "/containers/abc/start", 404, {"message": "network sandbox-0123abcd-7 not found"})
    with pytest.raises(NetworkMissing):
        engine.start("abc")


_OCI = "failed to create shim task: OCI runtime create failed: "


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (f'{_OCI}runc create failed: unable to start container process: exec: "/x": permission denied', ImageUnfit),
        (f'{_OCI}container_linux.go:425: starting container process caused: exec: "/x": stat /x: no such', ImageUnfit),
        ("No command specified", ImageUnfit),
        ("unable to find user builder: no matching entries in passwd file", ImageUnfit),
        (f"{_OCI}failed to register with sysbox-mgr: dial unix sysmgr.sock: no such file or directory", EngineError),
        (f'{_OCI}exec: "newuidmap": executable file not found in $PATH', EngineError),
    ],
)
def test_an_image_that_cannot_be_started_is_told_from_a_host_that_cannot_start(
    api: Api, engine: Engine, words: str, kind: type[EngineError]
) -> None:
    """The trap: the status is 400 for each of them, for the "no such file" in it."""
    api.say("POST", "/containers/abc/start", 400, {"message": words})
    with pytest.raises(EngineError) as caught:
        engine.start("abc")
    assert type(caught.value) is kind


@pytest.mark.parametrize("body", [b"[1, {}]", b"{}", b'"words"', b"7", b"not JSON", b"[" * 100_000, b"\xff", b"null"])
def test_an_answer_of_another_shape_is_the_engines_fault(api: Api, engine: Engine, body: bytes) -> None:
    for path in ("/containers/json", "/networks", "/volumes", "/info", "/containers/abc/json"):
        api.say("GET", path, 200, body)
    asked: list[Callable[[], object]] = [
        lambda: engine.check("sysbox-runc", "x"),
        lambda: engine.facts("abc"),
        lambda: engine.owned(OURS),
        engine.taken_subnets,
        lambda: engine.remove(OURS),
        engine.installations,
    ]
    for ask in asked:
        if body != b"null":  # Go's empty list
            _refused(ask)
    assert engine.last_words("abc") == ""


def test_every_call_is_told_with_its_end(api: Api) -> None:
    told: list[object] = []
    engine = Engine(api.url, told.append)
    api.things["containers"] = [{"Id": "abc", "Labels": MINE, "State": "running", "Status": "Up"}]
    engine.owned(OURS)
    api.say("POST", "/containers/abc/start", 500, {"message": "no"})
    _refused(lambda: engine.start("abc"))
    engine.remove(OURS)
    assert told == [
        CallBegan(0, Step.LIST),
        Listed(0, {"abc": True}),
        CallEnded(0, End.ANSWERED),
        CallBegan(1, Step.START, "abc"),
        CallEnded(1, End.REFUSED),
        CallBegan(2, Step.LIST),
        CallEnded(2, End.ANSWERED),
        CallBegan(3, Step.REMOVE, "abc"),
        CallEnded(3, End.ANSWERED),
        CallBegan(4, Step.LIST_NETWORKS),
        CallEnded(4, End.ANSWERED),
        CallBegan(5, Step.LIST_VOLUMES),
        CallEnded(5, End.ANSWERED),
    ]


def test_a_call_that_hung_or_found_nobody_is_told_as_such(api: Api, tmp_path: Path) -> None:
    told: list[object] = []
    api.hang("GET", "/containers/json")
    _refused(lambda: Engine(api.url, told.append)._call(Step.LIST, lambda client: client.containers(), 0.1))
    _refused(lambda: Engine(f"unix://{tmp_path}/nothing", told.append).owned(OURS))
    assert [event.end for event in told if isinstance(event, CallEnded)] == [End.TIMED_OUT, End.UNREACHABLE]


def test_a_probe_asks_the_runtime_and_changes_nothing(api: Api, engine: Engine) -> None:
    """The trap: under sysbox a pause gives every file that the sandbox has written another owner."""
    api.say("GET", "/containers/abc/top", 200, {"Titles": ["PID"], "Processes": [["1"]]})
    engine.probe("abc")
    assert [request.path for request in api.asked][-1:] == ["/containers/abc/top"]
    assert api.done("POST") == []


# -- whether its host is to be seen -----------------------------------------------------------------------------------

SEES = "from sandbox.engine import Engine; import sys; print(Engine(sys.argv[1]).shows_its_host())"


APART = ["unshare", "--pid", "--fork", "--kill-child"]
HIDDEN = 'mount -t proc -o hidepid=ptraceable proc /proc && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'


@pytest.mark.parametrize("blind", [APART, ["unshare", "--mount", "sh", "-c", HIDDEN, "sh"]])
def test_who_listens_tells_whether_its_host_is_to_be_seen(api: Api, blind: list[str]) -> None:
    assert Engine(api.url).shows_its_host()
    told = subprocess.run(
        [*blind, sys.executable, "-c", SEES, api.url], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout == "False\n", told.stderr


def test_who_listens_cannot_be_asked_for_where_nobody_does(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match="cannot be connected to"):
        Engine(f"unix://{tmp_path / 'none.sock'}").shows_its_host()
