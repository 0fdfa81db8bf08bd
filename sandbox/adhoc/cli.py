"""The commands for a user's own sandboxes: up, run, cp, ssh-config, reset, rm. They need no keeper."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox.adhoc import options, ssh_config, terminal, transfer
from sandbox.adhoc.borrow import borrowed
from sandbox.adhoc.life import NAMED, PASSING, written
from sandbox.adhoc.options import AsJson, Config, Cpus, Idle, Image, Keeper, Memory, Name, ProfileName, Ttl
from sandbox.adhoc.order import Order, profile_of
from sandbox.adhoc.progress import Progress, warn
from sandbox.adhoc.record import Record
from sandbox.adhoc.session import Login, Session
from sandbox.adhoc.terminal import ended_by_signals
from sandbox.config import DEFAULT_PROFILE
from sandbox.errors import ConfigError, ConnectionLost, KeeperRefused, TransferFailed
from sandbox.profile import InnerDocker
from sandbox.text import one_line

if TYPE_CHECKING:
    from sandbox.adhoc.machine import Machines

app = typer.Typer()

OwnNames = Annotated[
    list[str] | None, typer.Argument(help="As `sandbox ls` names them.", autocompletion=options.own_names)
]
Docker = Annotated[
    InnerDocker, typer.Option(help="Its own Docker Engine: waited for (eager), or started when used (lazy).")
]


@app.command()
def up(
    name: Name = options.DEFAULT_NAME,
    profile: ProfileName = DEFAULT_PROFILE,
    cpus: Cpus = None,
    memory: Memory = None,
    image: Image = None,
    ttl: Ttl = None,
    idle: Idle = None,
    docker: Docker = InnerDocker.EAGER,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a sandbox to come back to: a machine of your own with Docker in it.

    It is removed after 8 h, and when nobody was connected to it for an hour: see --ttl, --idle and `sandbox hold`.
    """
    machines = options.machines(config)
    life = options.life_of(NAMED, ttl, idle)
    kind = profile_of(machines.config, profile, cpus, memory, image)
    record = _make(machines, Order(name, kind, life, docker, keeps_key=True), silent=False)
    if as_json:
        print(record.model_dump_json(indent=2, exclude={"access": {"client_key"}}))
        return
    idle_for = f", or {written(life.idle)} after nobody is connected" if life.idle is not None else ""
    print(f"{name} is there for {written(life.ttl)}{idle_for}. Get in: sandbox shell {name}")


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(help="One word is for the shell; several are a program's.")],
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sandbox there afterwards.")] = False,
    mount_copy: Annotated[
        list[Path] | None,
        typer.Option("--mount-copy", help="Copy this in; if it is one folder, the command runs there."),
    ] = None,
    get: Annotated[
        list[str] | None, typer.Option("--get", help="Copy this out afterwards, to here, in place of what is there.")
    ] = None,
    profile: ProfileName = DEFAULT_PROFILE,
    cpus: Cpus = None,
    memory: Memory = None,
    image: Image = None,
    ttl: Ttl = None,
    docker: Docker = InnerDocker.EAGER,
    config: Config = None,
    keeper: Keeper = None,
) -> None:
    """Run a command in a new sandbox that is gone afterwards, and exit with the command's code.

    Where a keeper answers and no option asks for a special sandbox, one of its warm ones is borrowed. Without a
    terminal, Ctrl-C and TERM end the command; on one, keys are the command's.
    """
    special = (profile, cpus, memory, image, ttl, docker, config, keep)
    plain = special == (DEFAULT_PROFILE, None, None, None, None, InnerDocker.EAGER, None, False)
    _check_files(mount_copy or [], get or [])
    with ended_by_signals(), ExitStack() as stack:
        session = _borrowed(stack, keeper) if plain else None
        if session is None:
            machines = options.machines(config)
            kind = profile_of(machines.config, profile, cpus, memory, image)
            life = options.life_of(NAMED if keep else PASSING, ttl, None)
            order = Order(f"run-{secrets.token_hex(3)}", kind, life, docker, keeps_key=keep)
            session = stack.enter_context(_made(machines, order, keep))
        code = _work(session, command, mount_copy or [], get or [])
    raise typer.Exit(code)


@app.command()
def cp(
    source: Annotated[str, typer.Argument(help="A path here, or NAME:PATH in a sandbox.")],
    target: Annotated[str, typer.Argument(help="The other one of the two.")],
) -> None:
    """Copy a file or folder into a sandbox, or out of it. Paths in it are relative to its home folder."""
    inside = [":" in place for place in (source, target)]
    if inside.count(True) != 1:
        raise ConfigError("One of the two is in a sandbox, and written as NAME:PATH (a file here with a colon: ./a:b).")
    name, _, path = (source if inside[0] else target).partition(":")
    record, transport = options.machines().open(name)
    with closing(transport):
        session = Login(record.name, transport)
        if inside[1]:
            session.put(source, path or ".")
        else:
            _fetch(session, path, Path(target))


@app.command("ssh-config")
def print_ssh_config(name: Name = options.DEFAULT_NAME) -> None:
    """Print what ssh, scp, rsync and editors need to reach a sandbox as NAME.sandbox: `>> ~/.ssh/config`.

    This writes the sandbox's key to a file that only you can read. The file is removed with the sandbox.
    """
    store = options.machines().store
    print(ssh_config.write(store, store.get(name)), end="")


@app.command()
def reset(name: Name = options.DEFAULT_NAME, config: Config = None) -> None:
    """Throw a sandbox away and make another one like it, with new keys."""
    machines = options.machines(config)
    before = machines.store.get(name)
    if before.access is None or before.access.client_key is None:
        raise ConfigError(f"The sandbox {name} belongs to a program that runs. Remove it instead: sandbox rm {name}")
    machines.remove(before)
    _make(machines, Order(name, before.profile, before.life, before.docker, keeps_key=True), silent=False)


@app.command()
def rm(
    names: OwnNames = None,
    every: Annotated[bool, typer.Option("--all", help="All of your own on this engine.")] = False,
) -> None:
    """Remove sandboxes of your own with everything in them."""
    if bool(names) == every:
        raise ConfigError("Say which sandboxes: by their names, or --all.")
    machines = options.machines()
    for record in machines.store.records() if every else [machines.store.get(name) for name in names or []]:
        machines.remove(record)
        print(f"{record.name} is removed.")


# -- inside -----------------------------------------------------------------------------------------------------------


def _make(machines: Machines, order: Order, silent: bool) -> Record:
    with Progress(f"sandbox {order.name}", silent) as progress:
        record, transport = machines.make(order, progress)
        progress.ready()
    transport.close()
    warn(record)
    return record


@contextmanager
def _made(machines: Machines, order: Order, keep: bool) -> Iterator[Session]:
    with Progress(f"sandbox {order.name}", silent=not sys.stderr.isatty()) as progress:
        record, transport = machines.make(order, progress)
        progress.ready()
    warn(record)
    try:
        yield Login(record.name, transport)
    finally:
        transport.close()
        if keep:
            print(f"sandbox: {record.name} is still there. Get in: sandbox shell {record.name}", file=sys.stderr)
        else:
            machines.remove(record)


def _borrowed(stack: ExitStack, socket: Path | None) -> Session | None:
    """Borrow a warm sandbox of the keeper until the stack is left; None when the keeper has none to lend."""
    client = options.keeper_of(socket)
    try:
        return stack.enter_context(borrowed(client)) if client else None
    except KeeperRefused:
        return None


def _check_files(copied: list[Path], wanted: list[str]) -> None:
    """Refuse files that cannot be copied, before a sandbox is made and anything is built in it."""
    for path in copied:
        if not os.path.lexists(path):
            raise TransferFailed(f"There is no {path} to copy.")
        if not os.access(path, os.R_OK, follow_symlinks=False):
            raise TransferFailed(f"{path} cannot be read, and so not be copied.")
    names = [transfer.own_name(path) for path in wanted]
    for name in names:
        if names.count(name) > 1:
            raise TransferFailed(f"More than one --get would be {name} here. Give them different names.")
        if os.path.ismount(name):
            raise TransferFailed(f"{name} is a mount point, which cannot be replaced. Run this elsewhere.")
    if names and not os.access(".", os.W_OK | os.X_OK):
        raise TransferFailed(f"{Path.cwd()} cannot be written to, and --get copies to it. Run this elsewhere.")


def _work(session: Session, command: list[str], copied: list[Path], wanted: list[str]) -> int:
    """Copy in, run, copy out. Returns the command's exit code; copies the wanted files out whatever that code is."""
    for path in copied:
        session.put(path, "./")
    folders = [path for path in copied if path.is_dir()]
    cwd = folders[0].resolve().name if len(folders) == len(copied) == 1 else None
    text = command[0] if len(command) == 1 else shlex.join(command)
    try:
        code = terminal.attach(session.transport, text, cwd)
    except ConnectionLost:
        raise
    except BaseException:
        _get_all(session, cwd, wanted)
        raise
    missing = _get_all(session, cwd, wanted)
    return code or missing


def _get_all(session: Session, cwd: str | None, wanted: list[str]) -> int:
    """Copy out every file that can be, and report the others. Returns 74 if there are others, as in `sandbox.entry`."""
    code = 0
    for name in wanted:
        try:
            _fetch(session, str(PurePosixPath(cwd or ".", name)), Path(), replace=True)
        except (TransferFailed, ConnectionLost) as error:
            print(f"sandbox: {error}", file=sys.stderr)
            code = os.EX_IOERR
    return code


def _fetch(session: Session, path: str, target: Path, *, replace: bool = False) -> None:
    for link in session.get(path, target, replace=replace):
        print(
            f"sandbox: the link {one_line(link)} could lead out of what was copied, and was left out.", file=sys.stderr
        )
