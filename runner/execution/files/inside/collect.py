"""Sends a job's artifacts from its working folder, and reports what it leaves out. Runs in the sandbox.

It follows no link: it opens folders one below the other, and sends a link as a link if its target is inside. It runs as
the job's user, so the runner trusts nothing that it sends.

The answer is a frame `f` for each file (JSON, followed by the file's bytes), and a frame `d` at the end. The frame of a
file holds the number of a pattern that matches it, so that the runner need not try all of the job's patterns.
"""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import PurePosixPath

from runner.execution.files.inside.patterns import DEEPEST, Patterns
from runner.execution.launcher import STDOUT, read_head, read_pieces, send_json, write_all
from sandbox.archives import shown, stays_inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_TOLD = 20
CHUNK = 1024 * 1024
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def main() -> None:
    """Read the request, and send the files."""
    _, size = read_head()
    wanted = json.loads(b"".join(read_pieces(size)))
    signal.alarm(int(wanted["deadline"]) + 1)
    Collector(wanted).run()


class Collector:
    """Walks through one folder."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.folder = wanted["folder"]
        self.patterns = Patterns(wanted["paths"])
        self.bytes, self.files = wanted["bytes"], wanted["files"]
        self.left_out = 0
        self.told: list[str] = []

    def run(self) -> None:
        """Send all wanted files, then the list of those left out."""
        try:
            self.walk(os.open(self.folder, FLAGS | os.O_DIRECTORY), "", self.patterns.start)
            for pattern in dict.fromkeys(self.patterns.unmet.values()):
                self.leave_out(pattern, "nothing in the working folder has such a name")
        except OSError as error:
            self.leave_out(self.folder, f"it cannot be read ({error.strerror})")
        send_json(b"d", {"left_out": self.left_out, "told": self.told})

    def walk(self, descriptor: int, above: str, places: tuple[frozenset[int], ...]) -> None:
        """Walk through a folder, then close it."""
        try:
            for name in sorted(os.listdir(descriptor)):
                further = self.patterns.step(places, name)
                if any(further):
                    self.look(descriptor, name, above + name, further)
        finally:
            os.close(descriptor)

    def look(self, folder: int, name: str, path: str, places: tuple[frozenset[int], ...]) -> None:
        """Send one entry of a folder, or the files below it."""
        pattern = self.patterns.first(places)
        try:
            kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind) and path.count("/") < DEEPEST:
                self.walk(os.open(name, FLAGS | os.O_DIRECTORY, dir_fd=folder), f"{path}/", places)
            elif pattern is None:
                return
            elif not path.isprintable():
                self.leave_out(path, "its name is no plain text")
            elif stat.S_ISLNK(kind):
                self.send_link(path, pattern, os.readlink(name, dir_fd=folder))
            elif stat.S_ISREG(kind):
                self.send_file(path, pattern, os.open(name, FLAGS, dir_fd=folder))
            else:
                self.leave_out(path, "it is no file")
        except OSError as error:
            if pattern is not None:
                self.leave_out(path, f"it cannot be read ({error.strerror})")

    def send_link(self, path: str, pattern: int, target: str) -> None:
        """Send a symbolic link."""
        if not target.isprintable() or not stays_inside(PurePosixPath(path), target):
            self.leave_out(path, "it is a link that leads elsewhere")
        elif self.has_room(path, 0):
            send_json(b"f", {"path": path, "pattern": pattern, "link": target})

    def send_file(self, path: str, pattern: int, descriptor: int) -> None:
        """Send a file, with exactly the announced number of bytes, even if the file changes meanwhile."""
        with open(descriptor, "rb", buffering=0) as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                self.leave_out(path, "it is no file")
                return
            if not self.has_room(path, facts.st_size):
                return
            changed = min(max(0, int(facts.st_mtime)), 2**33 - 1)
            header = {
                "path": path,
                "pattern": pattern,
                "size": facts.st_size,
                "executable": bool(facts.st_mode & 0o100),
                "changed": changed,
            }
            send_json(b"f", header)
            left = facts.st_size
            while left and (piece := file.read(min(CHUNK, left))):
                write_all(STDOUT, piece)
                left -= len(piece)
            while left:
                write_all(STDOUT, bytes(min(CHUNK, left)))
                left -= min(CHUNK, left)

    def has_room(self, path: str, size: int) -> bool:
        """Return whether there is room for one more file, and take it."""
        if self.files < 1:
            self.leave_out(path, "there are too many files")
        elif self.bytes < size:
            self.leave_out(path, f"its {size} bytes are more than there is room for")
        else:
            self.files -= 1
            self.bytes -= size
            return True
        return False

    def leave_out(self, path: str, why: str) -> None:
        """Count a file that is left out; report the first `MOST_TOLD`."""
        self.left_out += 1
        if len(self.told) < MOST_TOLD:
            self.told.append(f"{shown(path)}: {why}")
