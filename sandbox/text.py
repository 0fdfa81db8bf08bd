"""Somebody else's text, made fit for a sentence of ours."""


def one_line(text: str) -> str:
    """The text without what would break a line or steer a terminal: each such character becomes a space."""
    return "".join(char if char.isprintable() else " " for char in text)
