"""Controls the faulty runtime, and registers it with an engine without restarting the engine."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from tests.faults import faulty_runtime

NAME = "faulty-runtime"
"""The name under which engines know it."""


class Control:
    """Orders for one faulty runtime, in a folder that it reads at each call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def hang(self, verb: str, container: str = "") -> None:
        """Hang in `verb` until the order is taken back; with a container's id, for that one alone."""
        self._order(verb, "hang", container)

    def fail(self, verb: str, reason: str, container: str = "") -> None:
        """Fail in `verb` with a reason."""
        self._order(verb, f"fail {reason}", container)

    def delay(self, verb: str, seconds: float, container: str = "") -> None:
        """Wait in `verb`, then go on."""
        self._order(verb, f"delay {seconds}", container)

    def clear(self) -> None:
        """Take every order back: what hangs goes on."""
        for verb in faulty_runtime.VERBS:
            (self._folder / verb).unlink(missing_ok=True)

    def seen(self) -> list[tuple[str, str]]:
        """Each call so far: verb and container's id."""
        try:
            lines = (self._folder / faulty_runtime.SEEN).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [(verb, container) for verb, _, container in (line.partition(" ") for line in lines)]

    def write_launcher(self, runtime: Path) -> Path:
        """The script that an engine calls as its runtime; it hands on to `runtime`."""
        copy = self._folder / "faulty_runtime.py"
        copy.write_text(Path(faulty_runtime.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        # Not a virtual environment's link: the engine may see other mounts, and isolated Python needs no packages.
        python = str(Path(sys.executable).resolve())
        launcher = self._folder / NAME
        words = shlex.join([python, "-I", "-S", str(copy), str(self._folder), str(runtime)])
        launcher.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        launcher.chmod(0o755)
        return launcher

    def _order(self, verb: str, order: str, container: str) -> None:
        if verb not in faulty_runtime.VERBS:
            raise ValueError(f"{verb} is none of {', '.join(faulty_runtime.VERBS)}")
        new = self._folder / f"{verb}.new"
        new.write_text(f"{order}\n{container}", encoding="utf-8")
        new.replace(self._folder / verb)  # at once: a call may be reading


@contextmanager
def registered(daemon_json: Path, engine_pid: int, url: str, launcher: Path) -> Iterator[str]:
    """Have the engine know the launcher as a runtime for the length of the block; the value is the runtime's name.

    An engine reads `runtimes` anew at SIGHUP: containers and clients go on.
    """
    before = daemon_json.read_text(encoding="utf-8")
    settings = json.loads(before)
    settings["runtimes"] = {**settings.get("runtimes", {}), NAME: {"path": str(launcher)}}
    try:
        _reload(daemon_json, json.dumps(settings, indent=2) + "\n", engine_pid)
        _wait_until_known(url, known=True)
        yield NAME
    finally:
        _reload(daemon_json, before, engine_pid)
        _wait_until_known(url, known=False)


def _reload(daemon_json: Path, text: str, engine_pid: int) -> None:
    daemon_json.write_text(text, encoding="utf-8")
    os.kill(engine_pid, signal.SIGHUP)


def _wait_until_known(url: str, known: bool, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    client = docker.DockerClient(base_url=url, timeout=10)
    try:
        while (NAME in client.info()["Runtimes"]) is not known:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{NAME} is {'not yet' if known else 'still'} registered after {seconds:.0f} s")
            time.sleep(0.05)
    finally:
        client.close()
