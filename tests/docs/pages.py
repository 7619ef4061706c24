"""The pages of the documentation, and the fenced blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: the word after its fence, its text, and the line it begins on."""

    page: Path
    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path | str, language: str | None = None) -> list[Block]:
    """The blocks of a page (a path, or a name in docs/), in order; of one language if named."""
    path = ROOT / "docs" / page
    text = path.read_text(encoding="utf-8")
    found = [
        Block(path, match[2], dedent(match[3]), text.count("\n", 0, match.start()) + 1)
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


def section(page: str, title: str) -> list[Block]:
    """The blocks below one heading, down to the next heading of its level or above.

    Raises:
        LookupError: the page has no such heading.
    """
    inside, level, fenced, lines = False, 0, False, set()
    for number, line in enumerate((ROOT / "docs" / page).read_text("utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        head = None if fenced else re.match(r"(#+) (.*)", line)
        if head and (not inside or len(head[1]) <= level):
            inside, level = head[2] == title, len(head[1])
        if inside:
            lines.add(number)
    if not lines:
        raise LookupError(f"{page} has no heading {title!r}")
    return [block for block in blocks(page) if block.line in lines]
