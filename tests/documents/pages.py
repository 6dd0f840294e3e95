"""The Markdown pages of the repository, as the tests of this folder read them."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Piece:
    """A piece of a page, and where it stands."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def tracked() -> list[str]:
    """Paths of all files of the repository, those included that are new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.split("\0") if path and (ROOT / path).exists()]


def pages() -> list[str]:
    return [path for path in tracked() if path.endswith(".md")]


def blocks(language: str) -> list[Piece]:
    """The fenced blocks of all pages in that language; "": those that state none."""
    found = []
    for page in pages():
        text = (ROOT / page).read_text("utf-8")
        for match in _FENCE.finditer(text):
            if match[1] == language:
                found.append(Piece(page, text.count("\n", 0, match.start(2)) + 1, match[2]))
    return found


def prose(page: str) -> str:
    """The page with its fenced blocks left blank; lines keep their numbers."""
    text = (ROOT / page).read_text("utf-8")
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def inline_code() -> Iterator[Piece]:
    """What stands between backticks in the prose of all pages, line breaks as blanks."""
    for page in pages():
        text = prose(page)
        for match in _CODE.finditer(text):
            yield Piece(page, text.count("\n", 0, match.start()) + 1, " ".join(match[1].split()))
