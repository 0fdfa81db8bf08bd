"""docker_on_demand.py SOCKET COMMAND…: listen on SOCKET, and become COMMAND when somebody connects.

The listening socket is passed on as systemd does (sd_listen_fds(3)), so the first client waits in its queue and COMMAND
answers it. A USR1 tells the parent that a client has come.
"""

from __future__ import annotations

import grp
import os
import select
import signal
import socket
import sys

FIRST_FD = 3
QUEUE = 128


def main() -> None:
    """Wait for the first client, without a deadline, then become the command."""
    path, *command = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listener:
        os.umask(0o117)
        listener.bind(path)
        os.chown(path, 0, grp.getgrnam("docker").gr_gid)
        listener.listen(QUEUE)
        select.select([listener], [], [])
        os.kill(os.getppid(), signal.SIGUSR1)
        os.dup2(listener.fileno(), FIRST_FD)
        os.set_inheritable(FIRST_FD, True)  # dup2 changes nothing if both are the same
        os.umask(0o022)
        os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        os.execvp(command[0], command)  # noqa: S606 - deliberately without a shell


if __name__ == "__main__":
    main()
