"""Ends with the code 7, and repeats the question."""

import sys


def main() -> int:
    """See above."""
    print(sys.stdin.read(), file=sys.stderr)
    return 7
