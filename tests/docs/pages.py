"""The pages of the documentation, and their parts that can be checked."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_HERE_DOCUMENT: Final = re.compile(r"<<'?(\w+)'?\n.*?^\1$", re.MULTILINE | re.DOTALL)
_OPERATORS: Final = frozenset({"|", "||", "&&", ";", "&", "<", ">", ">>", "<<<", "(", ")", "|&"})


@dataclass(frozen=True, slots=True)
class Block:
    """Something between fences."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Every block in one of these languages."""
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def block_of(page: str, beginning: str) -> Block:
    """The one shell block of a page that begins so."""
    [found] = [block for block in blocks("sh") if block.page.stem == page and block.text.startswith(beginning)]
    return found


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[2], textwrap.dedent(found[3]))


def links(page: Path) -> list[str]:
    """Where the links of a page lead, but for those that leave this repository."""
    text = _BLOCK.sub("", page.read_text())
    return [target for target in _LINK.findall(text) if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page, as Git hosts make it of headings."""
    text = _BLOCK.sub("", page.read_text())
    plain = (re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in _HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in plain}


def commands(block: Block) -> Iterator[list[str]]:
    """The simple commands of a shell block, as words, without redirections. Here-documents are no commands."""
    text = _HERE_DOCUMENT.sub("", block.text).replace("\\\n", " ")
    for inner in re.findall(r"\$\(([^()]*)\)", text):
        yield from _simple(inner)
    for line in re.sub(r"\$\([^()]*\)", "INNER", text).splitlines():
        yield from _simple(line)


def _simple(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif word in ("<", ">", ">>", "<<<"):
            skip = True
        elif word in _OPERATORS:
            if words:
                yield words
            words = []
        elif words or not re.fullmatch(r"[A-Za-z_]\w*=.*", word):  # variables before a command
            words.append(word)
    if words:
        yield words
