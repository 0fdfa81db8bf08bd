"""The signals that a process is sent, taken one at a time."""

import signal
import socket


class Signals:
    """What came and was not taken yet, in its order. Made in the main thread, once; taken in any.

    Not by Python's handlers alone: these run in the main thread when that gets to run, and while it waits nothing wakes
    it but a signal of its own. The kernel may hand one that was meant for the process to another thread, as to one that
    is just starting a process, and the main thread sleeps on. What `set_wakeup_fd` names is written by whichever it is.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._taken, self._sent = socket.socketpair()
        self._sent.setblocking(False)
        signal.set_wakeup_fd(self._sent.fileno())
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def send(self, number: signal.Signals) -> None:
        """As if the process had been sent it."""
        self._sent.send(bytes([number]))

    def take(self) -> signal.Signals:
        """Wait for the next one, for as long as that takes."""
        return signal.Signals(self._taken.recv(1)[0])
