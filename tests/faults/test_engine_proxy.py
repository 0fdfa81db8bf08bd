"""The proxy itself, in front of the real engine."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from sandbox.engine import Engine
from sandbox.errors import EngineUnreachable
from tests.faults.engine_proxy import EngineProxy, Garbage, Hold, Refuse, obey
from tests.waiting import until


@contextmanager
def client_of(url: str) -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=url, version="1.41", timeout=10)
    try:
        yield client
    finally:
        client.close()


def test_every_request_is_matched_even_on_a_connection_that_is_kept(proxy: EngineProxy) -> None:
    """The trap: a client sends its second request on the connection of the first, where nobody would look for it."""
    with client_of(proxy.url) as client:
        client.ping()
        rule = proxy.misbehave("GET /networks", Refuse())
        with pytest.raises(Exception, match="closed connection"):
            client.networks()
        assert client.containers(limit=1) is not None
    assert rule.seen == 1
    assert proxy.requests == ["GET /_ping", "GET /networks", "GET /containers/json"]


def test_the_last_rule_counts_and_none_is_left_after_clear(proxy: EngineProxy) -> None:
    proxy.misbehave("GET /*", Garbage())
    rule = proxy.misbehave("GET /_ping", Hold())
    rule.release()
    with client_of(proxy.url) as client:
        assert client.ping()
        proxy.clear()
        assert client.info()


def test_a_held_request_can_be_waited_for_and_released(proxy: EngineProxy) -> None:
    rule = proxy.misbehave("GET /_ping", Hold())
    answers: list[bool] = []

    def ping() -> None:
        with client_of(proxy.url) as client:
            answers.append(client.ping())

    asking = threading.Thread(target=ping)
    asking.start()
    rule.wait_seen()
    assert not answers
    rule.release()
    asking.join(5)
    assert answers == [True]
    with pytest.raises(TimeoutError, match="seen 1 times, not 2"):
        rule.wait_seen(2, seconds=0.05)


def test_a_line_is_an_order(proxy: EngineProxy) -> None:
    assert obey(proxy, "drip 0.5 GET /info\n") == "ok"
    assert obey(proxy, "hold POST /containers/*/start") == "ok"
    assert [rule.pattern for rule in proxy._rules] == ["POST /containers/*/start", "GET /info"]
    assert obey(proxy, "requests") == ""
    assert obey(proxy, "dance") == (
        "unknown: dance; known are release, clear, down, up, requests, "
        "refuse, garbage, flood, hold, swallow, delay, drip, stall"
    )
    assert obey(proxy, "clear") == "ok"
    assert proxy._rules == []


def test_as_a_command_it_obeys_its_stdin(tmp_path: Path) -> None:
    listen = tmp_path / "docker.sock"
    real = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    words = [sys.executable, "-m", "tests.faults.engine_proxy", "--listen", str(listen), "--engine", real]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin
        assert running.stdout

        def order(line: str) -> str:
            assert running.stdin
            assert running.stdout
            running.stdin.write(f"{line}\n")
            running.stdin.flush()
            return running.stdout.readline()

        until("it listens", listen.exists)
        assert order("refuse GET /networks") == "ok\n"
        engine = Engine(f"unix://{listen}")
        with pytest.raises(EngineUnreachable):
            engine.taken_subnets()
        assert order("release") == "ok\n"
        assert engine.taken_subnets()
        running.stdin.close()
        assert running.wait(10) == 0
    assert not listen.exists()
