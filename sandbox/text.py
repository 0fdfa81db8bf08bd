"""Makes foreign text fit for a sentence of ours."""


def one_line(text: str) -> str:
    """Replace each character that would break a line or steer a terminal with a space."""
    return "".join(char if char.isprintable() else " " for char in text)
