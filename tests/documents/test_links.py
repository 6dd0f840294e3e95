"""Links and paths in the pages lead somewhere. After a move, this says which lines to change."""

import pkgutil
import re
from fnmatch import fnmatch
from pathlib import PurePosixPath
from urllib.parse import unquote

import pytest

from tests.documents.pages import ROOT, Piece, blocks, inline_code, pages, prose, tracked

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
_SUFFIXES = (".py", ".md", ".toml", ".proto", ".txtpb", ".txt", ".yml", ".yaml", ".cc", ".h")

SOURCES = (".py", ".proto", ".toml", ".cc", ".h", ".js", ".ts", ".java", ".go", ".rs")
"""How files end that hold code."""
NOT_OF_THE_REPOSITORY = {
    "models/detector/model.toml": "the reader's own",
    "detector/1/model.onnx": "the reader's own",
    "duly.toml": "the reader's own",
    "out/report.html": "written by a command",
    "out/results.json": "written by a command",
    "yolo/1": "a model and its version",
    "protos/inference/": "a recipe has it made",
    "clients/ros2/": "a recipe has it made",
    "WebGpuExecutionProvider": "one of ONNX Runtime's",
    "_ns": "the end of a name",
}
"""What looks in the pages like a path or a name of ours and is none."""


def anchors(page: str) -> set[str]:
    """What can stand behind # in a link to the page, as GitHub names headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages())
def test_relative_links_lead_somewhere(page: str) -> None:
    text, wrong = prose(page), []
    for match in _LINK.finditer(text):
        if re.match(r"[a-z]+:", match[1]):
            continue
        path, _, anchor = unquote(match[1]).partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        place = f"{page}:{text.count(chr(10), 0, match.start()) + 1}"
        if not target.exists():
            wrong.append(f"{place}: {match[1]}: there is no {path}")
        elif anchor and anchor not in anchors(str(target.relative_to(ROOT))):
            wrong.append(f"{place}: {match[1]}: {path or page} has no heading #{anchor}")
    assert not wrong, "\n".join(wrong)


def looks_like_a_path(text: str) -> bool:
    placeholder = re.match(r"[A-Z]+\b", text)  # NAME/model.toml; but README.md is one of ours
    if not _PATH.fullmatch(text) or text in NOT_OF_THE_REPOSITORY or (placeholder and "/" in text):
        return False
    return text.endswith((*_SUFFIXES, "/")) if "/" not in text[:-1] else not text.startswith("/")


def missing(pieces: list[Piece]) -> list[str]:
    """The pieces that are no path of the repository, written in full or by its last parts, with or without .py."""
    files = tracked()
    known = {*files, *(str(folder) for file in files for folder in PurePosixPath(file).parents)}
    ends = {"/".join(parts[start:]) for parts in (path.split("/") for path in known) for start in range(len(parts))}

    def exists(path: str) -> bool:
        if "*" in path:
            return any(fnmatch(end, path) for end in ends)
        return path in ends or f"{path}.py" in ends

    return [f"{piece}: `{piece.text}`: no path ends so" for piece in pieces if not exists(piece.text.rstrip("/"))]


def test_paths_between_backticks_are_there() -> None:
    wrong = missing([piece for piece in inline_code() if looks_like_a_path(piece.text)])
    assert not wrong, "\n".join(wrong)


def test_paths_in_drawings_are_there() -> None:
    drawn = [
        Piece(block.page, block.line + number, word)
        for block in blocks("")
        for number, line in enumerate(block.text.splitlines())
        for word in re.findall(r"[a-z][\w.*]*/[\w./*]*|[a-z][\w*]*\.py\b", line)
    ]
    wrong = missing([piece for piece in drawn if looks_like_a_path(piece.text)])
    assert not wrong, "\n".join(wrong)


def test_python_names_between_backticks_are_there() -> None:
    wrong = []
    for piece in inline_code():
        dotted = re.fullmatch(r"(duly|duly_client|duly_load)(\.\w+)+", piece.text)
        if dotted and piece.text not in NOT_OF_THE_REPOSITORY:
            try:
                pkgutil.resolve_name(piece.text)
            except (ImportError, AttributeError) as error:
                wrong.append(f"{piece}: `{piece.text}`: {error}")
    assert not wrong, "\n".join(wrong)


def test_words_of_the_code_between_backticks_are_in_the_code() -> None:
    """Names such as `_MISSED`, `BacklogPolicy` or `frames_in_flight_max`, and calls of them."""
    sources = [path for path in tracked() if path.endswith(SOURCES)]
    words = {word for path in sources for word in re.findall(r"\w+", (ROOT / path).read_text("utf-8"))}
    wrong = []
    for piece in inline_code():
        name, _, _ = piece.text.partition("(")
        of_code = re.fullmatch(r"[A-Za-z]+(_\w+)+|_\w+|([A-Z][a-z]+){2,}", name)
        if of_code and name not in words and name not in NOT_OF_THE_REPOSITORY:
            wrong.append(f"{piece}: `{piece.text}`: nothing in the code is called {name}")
    assert not wrong, "\n".join(wrong)
