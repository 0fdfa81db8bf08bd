"""Runs the Python code that it is asked to."""

import sys


def main() -> int:
    """See above."""
    exec(sys.stdin.read())
    return 0
