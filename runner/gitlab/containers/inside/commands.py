"""Makes the sandbox's Docker CLI run in any image.

The CLI is linked to the sandbox's C library, which an image may lack, or have in another version. So the programs are
mounted together with their libraries and their loader, and small scripts start them with that loader. The image needs
only `sh`, which a job's script needs anyway. An image's own Docker CLI is left alone.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

from runner.gitlab.containers.inside import engine

MOUNT = "/opt/sandbox-docker"
"""The folder of the sandbox's programs in a container."""
_DOCKER = Path("/usr/bin/docker")
_PLUGIN_FOLDERS = tuple(Path(base, "docker/cli-plugins") for base in ("/usr/libexec", "/usr/lib", "/usr/local/lib"))
_PLUGIN_TARGET = "usr/local/lib/docker/cli-plugins"
_TARGET = "usr/local/bin"
"""The folder where a container's Docker CLI looks for plugins, and a shell for programs."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The search path in a container whose image sets none."""
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)


def programs() -> dict[str, Path]:
    """Return the sandbox's Docker CLI and its plugins: path by name."""
    plugins = [plugin for folder in _PLUGIN_FOLDERS if folder.is_dir() for plugin in folder.glob("docker-*")]
    return {program.name: program for program in (*plugins, _DOCKER)}


def binds() -> list[str]:
    """Return the mounts that bring the programs and their libraries into a container."""
    sources = programs()
    libraries = {f"lib/{path.name}": path for program in sources.values() for path in _libraries(program)}
    return [f"{path.resolve()}:{MOUNT}/{name}:ro" for name, path in {**sources, **libraries}.items()]


def _libraries(program: Path) -> list[Path]:
    """Return the libraries of a program, its loader among them; none for a static one."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, timeout=60).stdout
    return [Path(path) for path in _LIBRARY.findall(listed)]


def find(container: str, program: str) -> bool:
    """Return whether a container has a program on its PATH."""
    environment = engine.call("GET", engine.container(container, "/json"))["Config"]["Env"] or []
    path = next((line.partition("=")[2] for line in environment if line.startswith("PATH=")), _PATH)
    folders = [folder for folder in path.split(":") if folder.startswith("/")]
    # Most programs are in the last folders.
    return any(engine.has_path(container, f"{folder}/{program}") for folder in reversed(folders))


def install(container: str) -> None:
    """Put the scripts that start the mounted programs into a container."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, path in programs().items():
            folder = _TARGET if name == "docker" else _PLUGIN_TARGET
            script = _starter(name, _libraries(path)).encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.mode, entry.size = 0o755, len(script)
            archive.addfile(entry, io.BytesIO(script))
    engine.call("PUT", engine.container(container, "/archive"), content.getvalue(), path="/")


def _starter(name: str, libraries: list[Path]) -> str:
    program = shlex.quote(f"{MOUNT}/{name}")
    loaders = [path.name for path in libraries if path.name.startswith("ld-")]
    loader = f"{MOUNT}/lib/{loaders[0]} --library-path {MOUNT}/lib " if loaders else ""
    return f'#!/bin/sh\nexec {loader}{program} "$@"\n'
