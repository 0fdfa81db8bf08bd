"""Prints something else than what was asked for."""


def main() -> int:
    """See above."""
    print('{"x": 1}')
    return 0
