"""A git server with LFS, as small as can be: a project, a submodule and a large file. Runs inside a sandbox.

    python3 origin.py FOLDER        makes FOLDER/up when it listens

The protocol is git's own (`git http-backend`) on port 8999 of the sandbox's loopback: from a sandbox no other server of
a test can be reached. LFS is the batch API with downloads only. Standard library only. The commits are the same each
time: `job.SHA` names the project's.
"""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = 8999
FOLDER = Path(sys.argv[1])
LARGE = b"a large file\n" * 1000
OID = hashlib.sha256(LARGE).hexdigest()
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize {len(LARGE)}\n"
CLEAN = {
    "PATH": os.environ["PATH"],
    "HOME": str(FOLDER),
    **{
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", "a"), ("EMAIL", "a@b"), ("DATE", "2026-01-01T00:00:00Z"))
    },
}


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, env=CLEAN, check=True, stdout=subprocess.DEVNULL)


def commit(name: str, files: dict[str, str], submodule: str | None = None) -> None:
    """Make a bare repository with one commit. Pointers are written by hand: no LFS is needed here."""
    work = FOLDER / "work" / name
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    for path, text in files.items():
        (work / path).write_text(text)
    if submodule:
        git(
            work,
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "add",
            str(FOLDER / "work" / submodule),
            submodule,
        )
        git(work, "config", "-f", ".gitmodules", f"submodule.{submodule}.url", f"../{submodule}.git")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "first")
    bare = FOLDER / "group" / f"{name}.git"
    git(FOLDER, "clone", "-q", "--bare", str(work), str(bare))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == f"/lfs/{OID}":
            self._answer(200, {"Content-Type": "application/octet-stream"}, LARGE)
        else:
            self._git(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._git(body)

    def _batch(self, request: dict[str, list[dict[str, str]]]) -> None:
        href = {"download": {"href": f"http://127.0.0.1:{PORT}/lfs/{OID}"}}
        objects = [{**wanted, "actions": href} for wanted in request["objects"]]
        body = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self._answer(200, {"Content-Type": "application/vnd.git-lfs+json"}, body)

    def _git(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            **CLEAN,
            "GIT_PROJECT_ROOT": str(FOLDER),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
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


def main() -> None:
    FOLDER.mkdir()
    commit("library", {"library.txt": "from the submodule\n"})
    attributes = "large.bin filter=lfs diff=lfs merge=lfs -text\n"
    files = {"README": "hello\n", ".gitattributes": attributes, "large.bin": POINTER}
    commit("app", files, submodule="library")
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    (FOLDER / "up").touch()
    server.serve_forever()


if __name__ == "__main__":
    main()
