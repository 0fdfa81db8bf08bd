"""A process that prints the signals that it takes, while two of its threads compete for them."""

import signal
import threading

from sandbox.keeper.signals import Signals


def snatch() -> None:
    """Look at the process's pending signals all the time, as the kernel does in each fork."""
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])


if __name__ == "__main__":
    signals = Signals(signal.SIGHUP, signal.SIGTERM)
    for _ in range(2):
        threading.Thread(target=snatch, daemon=True).start()
    threading.Thread(target=print, args=("waiting",), kwargs={"flush": True}).start()
    while True:
        print(signals.take().name, flush=True)
