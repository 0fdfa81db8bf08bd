"""Runs one stage's script in the container of the job's image, or beside its services.

The script goes to the shell's standard input; nothing of it is in an argument list. As with gitlab-runner's docker
executor, the container is started for each script and ends with it. So a script's background processes end, and its
changes to the container's own file system stay for the next script.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

from runner.gitlab.containers.inside import engine

OURS = 61
"""The signal by which this program ends itself when it failed rather than the script: a script can return any exit
code. Nothing else uses this signal."""
OWNING_SECONDS = 600
"""Seconds for giving a folder's files to another user."""
KILL_SECONDS = 10.0
"""Seconds beyond the grace for a killed container to end, and for Docker to report that."""
NOTED_SECONDS = 2.0
"""Seconds for Docker to note a container's end after Docker's command has ended."""
_PAUSE = 0.05
_REMOVED_STATUS = ("removing", "dead")
"""Docker's status of a container that is being removed, which begins with its killing."""


class Interrupted(Exception):
    """This process was told to end."""


class Broken(Exception):
    """The script did not run to its end through no fault of its own. The text says why."""


def in_container(order: dict[str, Any]) -> int:
    """Run the script in the container and return its exit code. Does not return if that was impossible."""
    try:
        return _in_container(order)
    except Exception as error:  # noqa: BLE001 - Python's own exit code would count as the script's
        fail(f"The script could not be run in its container: {str(error) or type(error).__name__}")


def fail(why: str) -> NoReturn:
    """End this process by the signal which says that this program failed, not the script."""
    print(f"ERROR: {why}", flush=True)
    signal.signal(OURS, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [OURS])
    os.kill(os.getpid(), OURS)
    os._exit(OURS)  # never reached


def _in_container(order: dict[str, Any]) -> int:
    name, folders = order["container"], order["folders"]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _kill(name)
        own(folders, user_of(name))
        try:
            return _run(name, order["script"], order["grace"])
        finally:
            own(folders, os.getuid())
    except Interrupted:
        _kill(name)
        return 128 + signal.SIGTERM


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the code that ends the script has its own deadlines
    raise Interrupted


def _run(name: str, script: bytes, grace: float) -> int:
    command = ["docker", "start", "--attach", "--interactive", name]
    before = _state(name)["StartedAt"]
    interrupted = False
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until `running` is set
    # A group of its own: a signal to this process's group must not end the command that brings the output.
    running = subprocess.Popen(command, stdin=_file(script), process_group=0)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        running.wait()
    except Interrupted:
        interrupted = True
        _end(name, running, grace)
    state = _ended(name)
    if state["Error"] and state["ExitCode"]:
        print(f"ERROR: The container did not start: {state['Error']}. Check `image:entrypoint`.", flush=True)
    elif state["StartedAt"] == before:  # its exit code is that of the script before
        if interrupted:
            raise Interrupted
        raise Broken(f"Docker did not start it, and exited with {running.returncode}.")
    return int(state["ExitCode"])


def _state(name: str) -> dict[str, Any]:
    return dict(engine.call("GET", engine.container(name, "/json"))["State"])


def _ended(name: str) -> dict[str, Any]:
    """Return the state of the container after Docker's command has ended.

    Normally the command ends with the container. If something else ended it, nobody sees the script's output any more.
    """
    deadline = time.monotonic() + NOTED_SECONDS
    while (state := _state_or_removed(name))["Running"]:
        if time.monotonic() > deadline:
            _kill(name)
            raise Broken("Docker's command ended before it, so it was ended too.")
        time.sleep(_PAUSE)
    if state["Status"] in _REMOVED_STATUS:
        print(f"ERROR: The script removed its own container, {name}, and ended with it. Leave it out.", flush=True)
    return state


def _state_or_removed(name: str) -> dict[str, Any]:
    """Return the state of a container. The script may have removed it, as it uses the same Docker Engine."""
    try:
        return _state(name)
    except engine.Failed as error:
        if error.status != 404:
            raise
        return {"Status": "dead", "Running": False, "ExitCode": 128 + signal.SIGKILL, "Error": "", "StartedAt": ""}


def _end(name: str, running: subprocess.Popen[bytes], grace: float) -> None:
    """Ask every process in the container to end, and kill the container after the grace. Raises Broken on failure."""
    deadline = time.monotonic() + grace
    # The container does not run yet, or not any more, or ignores the signal.
    with contextlib.suppress(engine.Failed, subprocess.TimeoutExpired):
        listed = engine.call("GET", engine.container(name, "/top"), ps_args="-eo pid")["Processes"]
        subprocess.run(["sudo", "-n", "kill", "-TERM", *(pid for [pid] in listed)], check=False, capture_output=True)
        running.wait(max(0.0, deadline - time.monotonic()))
    _end_for_good(name, running, deadline + KILL_SECONDS)


def _end_for_good(name: str, running: subprocess.Popen[bytes], deadline: float) -> None:
    """Kill the container until it certainly does not start any more.

    The trap: Docker cannot kill a container that does not run, and Docker's command may still be about to start it.
    """
    while True:
        _kill(name)
        if running.poll() is not None and not _state(name)["Running"]:
            return
        if time.monotonic() > deadline:
            raise Broken("It could not be ended.")
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(_PAUSE)


def _kill(name: str) -> None:
    """Kill the container: nothing of an earlier script may run beside this one. Idempotent."""
    try:
        engine.call("POST", engine.container(name, "/kill"))
    except engine.Failed as error:
        if error.status != 409:  # it does not run
            raise
    engine.call("POST", engine.container(name, "/wait"))


def end_container(order: dict[str, Any]) -> int:
    """End the container, and return 0 when nothing runs in it any more.

    Needed after `in_container` was killed, and Docker's command with it. While Docker still starts the container, each
    call here waits for that.
    """
    name = order["container"]
    try:
        _kill(name)
        return int(_state(name)["Running"])
    except (engine.Failed, OSError) as error:
        if isinstance(error, engine.Failed) and error.status == 404:  # the job removed it
            return 0
        print(f"ERROR: The job's container could not be ended: {error}", flush=True)
        return 1


def user_of(name: str) -> int:
    """Return the user id of a container's programs."""
    user = engine.call("GET", engine.container(name, "/json"))["Config"]["User"].partition(":")[0]
    if not user or user.isdecimal():
        return int(user or 0)
    return next((int(account.id) for account in engine.accounts(name) if account.name == user), 0)


def own(folders: list[str], user: int) -> None:
    """Give everything in some folders to a user. Links are not followed."""
    command = ["find", *folders, "-xdev", "!", "-uid", str(user), "-exec", "chown", "-h", str(user), "{}", "+"]
    subprocess.run(["sudo", "-n", *command], check=False, stdin=subprocess.DEVNULL, timeout=OWNING_SECONDS)


def beside_services(order: dict[str, Any]) -> int:
    """Become the script, in the sandbox itself, with its own hosts file that has the services' names."""
    try:
        _become(order)
    except OSError as error:
        fail(f"The script could not be run beside its services: {error}")


def _become(order: dict[str, Any]) -> NoReturn:
    os.dup2(_file(_environment() + order["script"]), 0)
    # sudo ends by the same signal as its command.
    script = f'mount --bind "$1" /etc/hosts || kill -{OURS} $$; shift && exec "$@"'
    user = ["setpriv", "--reuid", str(os.getuid()), "--regid", str(os.getgid()), "--init-groups", "--"]
    own_mounts = ["unshare", "--mount", "--propagation", "slave", "--"]
    command = ["sudo", "-n", *own_mounts, "sh", "-c", script, "sh", order["hosts"], *user, "env", "-i", "bash"]
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 - our own arguments


def _environment() -> bytes:
    """Return the command that gives bash this process's environment: sudo passes on neither that nor open files.

    The environment may hold secrets, such as a proxy's password, and everybody can read an argument list. The command
    goes before the script's first line, a comment, so that all lines keep their numbers.
    """
    words = (f"{name}={shlex.quote(value)}" for name, value in os.environ.items() if name.isidentifier())
    return os.fsencode(f"export {' '.join(words)}; ")


def _file(content: bytes) -> int:
    """Return the descriptor of a file in memory, at its beginning."""
    descriptor = os.memfd_create("script")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
