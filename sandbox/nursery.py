"""Forks the children that `child` asks. A process of its own, with one thread and the standard library alone.

To start a Python and to load what a child needs takes 40 ms of processor time and more; here that is done once, and a
fork takes one. Nothing of a question or an answer is read here: what was loaded is all that two children share.

Input: on the socket that standard input is, one message per child: the name of its module, and its files (`FILES`).
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
"""Of each child: standard input, output, error, and a socket on which it says how to end it, and how it ended."""
_MOST = 4096


def main() -> None:
    """Fork until nobody is left who could ask."""
    requests = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for who asks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects them
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
    except (ImportError, AttributeError, OSError):  # who asks sees its socket closed without a word
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
    except BaseException:  # noqa: BLE001 - this copy must not go on as the process that it was forked from
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os.write(last, bytes([code]))  # it may write, and make no other call on a socket
        os._exit(code)


if __name__ == "__main__":
    main()
