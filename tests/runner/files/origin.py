"""A git repository with two commits, and a server that serves it over HTTP to clients that log in."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "glpat-0123456789abcdef"
CLEAN = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{role}_{part}": f"a@{part}" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")},
}


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, env=CLEAN, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@dataclass
class Origin:
    """The repository, and an HTTP server for it and for plain files."""

    folder: Path
    commits: list[str] = field(default_factory=list)
    """The commits, the oldest first."""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """What was asked for: path and the login."""

    def __post_init__(self) -> None:
        work, self.bare = self.folder / "work", self.folder / "app.git"
        work.mkdir(parents=True)
        git(work, "init", "-q", "-b", "main")
        for text in ("first", "second"):
            (work / "file").write_text(f"{text}\n")
            git(work, "add", ".")
            git(work, "commit", "-q", "-m", text)
            self.commits.append(git(work, "rev-parse", "HEAD"))
        git(self.folder, "clone", "-q", "--bare", str(work), str(self.bare))
        origin = self

        class Handler(_Handler):
            about = origin

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    about: Origin

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        login = self.headers.get("Authorization", "")
        self.about.asked.append((self.path, login))
        if self.path in self.about.files:
            self._answer(200, {}, self.about.files[self.path])
        elif self.path.startswith("/to/"):
            self._answer(302, {"Location": self.path.removeprefix("/to/")}, b"")
        elif self.path.startswith("/app.git"):
            self._git(login)
        else:
            self._answer(404, {}, b"")

    def do_POST(self) -> None:
        self._git(self.headers.get("Authorization", ""))

    def _git(self, login: str) -> None:
        if login != "Basic " + base64.b64encode(f"oauth2:{TOKEN}".encode()).decode():
            self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        environment = {
            **CLEAN,
            "GIT_PROJECT_ROOT": str(self.about.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self._answer(int(headers.pop("Status", "200").split()[0]), headers, answer)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def silent() -> socket.socket:
    """A host that takes connections and never says a word."""
    return socket.create_server(("127.0.0.1", 0))
