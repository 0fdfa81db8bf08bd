"""Fails, with a message of two lines and a terminal's escape sequence."""


def main() -> int:
    """See above."""
    raise ValueError("a\nno\x1b[31m way")
