"""Fills a job's working folder with its source. Runs in the sandbox, before anything of the job is there.

Secrets arrive over standard input, and lie only in files of a private folder in memory, while they are needed. The
answer is one frame: `d` when the folder is filled, `n` with the reason when it is not.
"""
# ruff: noqa: PTH123

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

from runner.execution.files.inside.unpack import unpack
from runner.execution.folder import RefusedError
from runner.execution.launcher import empty_workspace, read_head, read_pieces, send_json
from sandbox.archives import UnsafeArchive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO, Any

MEMORY = "/dev/shm"  # noqa: S108 - the file system in memory
PIECE = 1024 * 1024
MOST_SAID = 800
STALLED = 60  # seconds without a byte
GIT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "http:https:ssh",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": str(STALLED),
    "LC_ALL": "C.UTF-8",
}
SSH = (
    "ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o StrictHostKeyChecking=yes "
    "-o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=30 -o ServerAliveInterval=15"
)
NOT_BY_HASH = ("not our ref", "unadvertised object", "couldn't find remote ref")


class SourceError(Exception):
    """The source cannot be fetched, for the reason given."""


def main() -> None:
    """Read the request, and fill the folder."""
    _, size = read_head()
    wanted = json.loads(b"".join(read_pieces(size)))
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(int(wanted["deadline"]) + 1)
    try:
        fetch(wanted)
    except (SourceError, UnsafeArchive, RefusedError) as error:
        send_json(b"n", {"why": str(error)})
    except OSError as error:
        send_json(b"n", {"why": f"The files cannot be written in the sandbox: {error.strerror or error}."})
    else:
        send_json(b"d", {})


def give_up(*_: object) -> None:
    """Exit and remove the secrets: a signal alone would leave them in memory, where the job could read them."""
    raise SystemExit(1)


def fetch(wanted: dict[str, Any]) -> None:
    """Empty the folder, then fill it."""
    folder = Path(wanted["folder"])
    empty_workspace(str(folder))
    if wanted["kind"] == "git":
        with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as private:
            Git(wanted, folder, Path(private)).check_out()
        return
    with tempfile.TemporaryFile(dir=folder.parent) as archive:
        pieces = read_pieces(wanted["size"]) if wanted["kind"] == "upload" else download(wanted)
        if keep(pieces, archive) != wanted["sha256"]:
            raise SourceError("The archive is another one: its SHA-256 is not the one that was given.")
        archive.seek(0)
        unpack(archive, folder, wanted["bytes"], wanted["files"])


def keep(pieces: Iterable[bytes], archive: IO[bytes]) -> str:
    """Write an archive to a file, and return its SHA-256."""
    digest = hashlib.sha256()
    for piece in pieces:
        archive.write(piece)
        digest.update(piece)
    return digest.hexdigest()


def download(wanted: dict[str, Any]) -> Iterator[bytes]:
    """Yield the content at a URL. The token is sent to that URL only, not to where it redirects."""
    request = urllib.request.Request(wanted["url"], headers={"User-Agent": "sandbox-runner"})  # noqa: S310 - checked
    if wanted["token"]:
        request.add_unredirected_header("Authorization", f"Bearer {wanted['token']}")
    try:
        with urllib.request.urlopen(request, timeout=STALLED) as answer:  # noqa: S310 - as above
            left = wanted["archive_bytes"]
            while piece := answer.read(PIECE):
                left -= len(piece)
                if left < 0:
                    raise SourceError(f"The archive has more than {wanted['archive_bytes']} bytes.")
                yield piece
    except urllib.error.HTTPError as error:
        raise SourceError(f"The server of the archive answered {error.code} {one_line(error.reason)}.") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise SourceError(
            f"The archive could not be fetched: {one_line(str(reason) or type(error).__name__)}."
        ) from None


class Git:
    """One commit, fetched with git."""

    def __init__(self, wanted: dict[str, Any], folder: Path, private: Path) -> None:
        self.wanted = wanted
        self.folder = folder
        self.private = private
        self.environment = {**os.environ, **GIT, "HOME": str(private)}
        self.options = ["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", "gc.auto=0"]
        if wanted["token"]:
            self.log_in()
        if wanted["key"]:
            self.know_the_host()

    def log_in(self) -> None:
        """Let git log in with the token, at this host alone."""
        path = self.private / "login"
        self.write(path, f"username={self.wanted['user']}\npassword={self.wanted['token']}\n")
        address = urllib.parse.urlsplit(self.wanted["url"])
        place = f"{address.scheme}://{address.netloc}"
        self.options += ["-c", "credential.helper=", "-c", f"credential.{place}.helper=!f() {{ cat {path}; }}; f"]

    def know_the_host(self) -> None:
        """Let ssh use only this key, and trust only these host keys."""
        key, hosts = self.private / "key", self.private / "hosts"
        self.write(key, self.wanted["key"].replace("\r\n", "\n").rstrip("\n") + "\n")
        self.write(hosts, "".join(f"{line}\n" for line in self.wanted["host_keys"]))
        self.environment.update(GIT_SSH_COMMAND=f"{SSH} -i {key} -o UserKnownHostsFile={hosts}")

    def write(self, path: Path, text: str) -> None:
        """Create a file that only its owner can read."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def check_out(self) -> None:
        """Check out exactly the commit in the folder."""
        if shutil.which("git") is None:
            raise SourceError("There is no git in the sandbox. Use an image that has it.")
        commit = self.wanted["commit"]
        form = ["--object-format=sha256"] if len(commit) == 64 else []
        self.must("init", "--quiet", *form)
        self.must("remote", "add", "origin", self.wanted["url"])
        self.fetch(commit)
        if self.run("cat-file", "-e", f"{commit}^{{commit}}")[0]:
            raise SourceError(f"The commit {commit} is not there: the ref does not have it.")
        self.must("checkout", "--quiet", "--detach", commit)
        if self.must("rev-parse", "HEAD").strip() != commit:
            raise SourceError(f"What was checked out is not the commit {commit}.")

    def fetch(self, commit: str) -> None:
        """Fetch the commit by its hash or, if the server does not allow that, fetch the ref that has it."""
        depth = [f"--depth={self.wanted['depth']}"] if self.wanted["depth"] else []
        code, said = self.run("fetch", "--quiet", "--no-tags", *depth, "origin", commit)
        if not code:
            return
        if not any(words in said for words in NOT_BY_HASH):
            raise SourceError(f"git could not fetch the commit: {said}")
        if not self.wanted["ref"]:
            raise SourceError(f"The server gives no commit {commit} by its hash. Name a `ref` that has it. {said}")
        self.must("fetch", "--quiet", "--no-tags", "origin", self.wanted["ref"])

    def must(self, *words: str) -> str:
        """Run git and return its output. Raises SourceError when git fails."""
        code, said = self.run(*words)
        if code:
            raise SourceError(f"git {words[0]} failed: {said or f'exit code {code}'}")
        return said

    def run(self, *words: str) -> tuple[int, str]:
        """Run git and return its exit code and the end of its output."""
        done = subprocess.run(
            ["git", *self.options, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, one_line(done.stdout[-MOST_SAID:].decode(errors="replace"))


def one_line(text: object) -> str:
    """Return foreign text as one bounded line."""
    return " ".join(str(text).split())[:MOST_SAID]
