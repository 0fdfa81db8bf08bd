"""Ends with the code 7, and gives back what it was asked."""

import sys


def main() -> int:
    """See above."""
    print(sys.stdin.read(), file=sys.stderr)
    return 7
