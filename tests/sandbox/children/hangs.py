"""Never ends."""

import time


def main() -> int:
    """See above."""
    time.sleep(60)
    return 0
