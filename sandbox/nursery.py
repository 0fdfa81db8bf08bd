"""Forks the children that `child` asks. A process of its own, with one thread and only the standard library.

Starting Python and loading a child's modules takes 40 ms of processor time or more. Here that is done once, and a fork
takes 1 ms. This process reads no question or answer: two children share nothing but the loaded modules.

Input: one message per child, on the socket at standard input: the name of its module, and its files (`FILES`).
"""

import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

FILES = 4
"""Each child's files: standard input, output, error, and a socket for its pidfd and its exit code."""
_MOST = 4096


def main() -> None:
    """Fork until nobody is left to ask."""
    requests = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the asking process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    while True:
        module, handles, _, _ = socket.recv_fds(requests, _MOST, FILES)
        if not module:
            return
        _fork(module.decode(), handles, requests)
        for handle in handles:
            os.close(handle)


def _fork(module: str, handles: Sequence[int], requests: socket.socket) -> None:
    try:
        answer: Callable[[], int] = importlib.import_module(module).main
        child = os.fork()
    except (ImportError, AttributeError, OSError):  # the asker sees its socket close without a message
        return
    if child == 0:
        requests.close()
        _live(answer, handles)


def _live(answer: Callable[[], int], handles: Sequence[int]) -> NoReturn:
    *standard, last = handles
    status, code = socket.socket(fileno=last), 1
    try:
        for number, handle in enumerate(standard):
            os.dup2(handle, number)
            os.close(handle)
        itself = os.pidfd_open(os.getpid())
        socket.send_fds(status, [b"\0"], [itself])
        os.close(itself)
        said = answer()
        sys.stdout.flush()
        code = said
    except BaseException:  # noqa: BLE001 - the copy must not go on as the process it was forked from
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os.write(last, bytes([code]))  # a confined child may write, but make no socket call
        os._exit(code)


if __name__ == "__main__":
    main()
