"""The process's signals, taken one at a time."""

import signal
import socket


class Signals:
    """A queue of received signals. Made once, in the main thread; any thread may take from it.

    Python's handlers alone are not enough: they run in the main thread, and only a signal delivered to that thread
    wakes it. The kernel may deliver a signal for the process to another thread, such as one that is starting a process,
    and the main thread sleeps on. Whichever thread gets the signal writes to the `set_wakeup_fd` descriptor.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._taken, self._sent = socket.socketpair()
        self._sent.setblocking(False)
        signal.set_wakeup_fd(self._sent.fileno())
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def send(self, number: signal.Signals) -> None:
        """Act as if the process had received this signal."""
        self._sent.send(bytes([number]))

    def take(self) -> signal.Signals:
        """Wait for the next signal, without a deadline."""
        return signal.Signals(self._taken.recv(1)[0])
