"""A folder of wheels that travels in parts: no part holds more bytes than was said, and larger files are in pieces.

    part-001/manifest.json                       what there should be, with the SHA-256 of every file and every piece
    part-001/numpy-2.5.5-….whl                   a file that is whole
    part-002/onnxruntime_gpu-1.31.1-….whl.001    a piece of one that is not
    part-003/onnxruntime_gpu-1.31.1-….whl.002

The parts may come one by one, in any order. `joined` makes whole files of them and trusts none that it has not checked.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

FORMAT = 1
MANIFEST = "part-001/manifest.json"
PART_BYTES_MAX = 60_000_000
"""The most that a part may be asked to hold."""
PART_BYTES_MIN = 1_000
MANIFEST_BYTES_MAX = 1_000_000
"""Of a manifest that is read. One that is written has a tenth of its part at most, which is kept free for it."""
PARTS_MAX = 999
PIECES_MAX = 2_000
"""All pieces of all files together."""
TOTAL_BYTES_MAX = 16 << 30
BLOCK_BYTES = 1 << 20
NAMED_MAX = 10
"""An error names so many pieces, and counts the rest."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!-]{0,199}\.(whl|tar\.gz)")
_PLACE = re.compile(rf"part-[0-9]{{3}}/{_NAME.pattern}(\.[0-9]{{3}})?")


class PartsError(Exception):
    """The folder cannot be made or is not whole. The message names what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class Piece:
    path: str
    """Below the folder: part-NNN/NAME, and .NNN behind it where it is not the whole file."""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A file, and the pieces that it is in, in their order."""

    name: str
    sha256: str
    size_bytes: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    python: str
    """The version of Python that the wheels are for: "3.12"."""
    machine: str
    """What `platform.machine` says there: "x86_64"."""
    asks: tuple[str, ...]
    """What was asked for, as requirements for pip."""
    files: tuple[Whole, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


# ---- making it ----


def split(files: Sequence[Path], folder: Path, part_bytes: int, python: str, machine: str, asks: Sequence[str]) -> int:
    """Lays the files into the new folder, and returns how many parts there are. Each is at most `part_bytes` long.

    Raises PartsError where the folder is there already, a name is odd, or there is no room on the disk.
    """
    if not PART_BYTES_MIN <= part_bytes <= PART_BYTES_MAX:
        raise PartsError(f"a part of {part_bytes:,} bytes: should be {PART_BYTES_MIN:,} to {PART_BYTES_MAX:,}")
    for odd in (file.name for file in files if not _NAME.fullmatch(file.name)):
        raise PartsError(f"{odd}: should be the name of a wheel, NAME-VERSION-….whl")
    if folder.exists() and any(folder.iterdir()):
        raise PartsError(f"{folder}: is there already; remove it, or name another")
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(folder, sum(file.stat().st_size for file in files))
    kept_free = part_bytes // 10  # in the first part, for the manifest
    left = [part_bytes - kept_free]
    wholes = [_laid(file, folder, part_bytes, left) for file in sorted(files, key=lambda file: -file.stat().st_size)]
    manifest = {"format": FORMAT, **asdict(Manifest(python, machine, tuple(asks), tuple(wholes)))}
    text = json.dumps(manifest, indent=1)
    if len(left) > PARTS_MAX or len(text) > kept_free:
        raise PartsError(
            f"{len(left)} parts of {part_bytes:,} bytes are too many, or too small for a manifest: make larger ones"
        )
    (folder / "part-001").mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return len(left)


def _laid(file: Path, folder: Path, part_bytes: int, left: list[int]) -> Whole:
    """Lays one file. `left`: how many bytes each part still has room for, which is kept up to date."""
    size = file.stat().st_size
    whole, pieces = hashlib.sha256(), []
    in_pieces = size > part_bytes
    with file.open("rb") as source:
        done, number = 0, 0
        while done < size or not number:
            number += 1
            takes = min(size - done, part_bytes) if in_pieces else size
            part = next((nth for nth, room in enumerate(left) if room >= takes), len(left))
            if part == len(left):
                left.append(part_bytes)
            left[part] -= takes
            path = f"part-{part + 1:03}/{file.name}" + (f".{number:03}" if in_pieces else "")
            pieces.append(_copied(source, folder / path, path, takes, whole))
            done += takes
    return Whole(file.name, whole.hexdigest(), size, tuple(pieces))


def _copied(source: BinaryIO, target: Path, path: str, size: int, *wholes: "hashlib._Hash") -> Piece:
    """Copies so many bytes into a new file. `wholes` are told of them, too."""
    target.parent.mkdir(exist_ok=True)
    digest, left = hashlib.sha256(), size
    with target.open("xb") as written:
        while left:
            block = source.read(min(left, BLOCK_BYTES))
            if not block:
                raise PartsError(f"{target.name}: became shorter while it was read")
            for each in (digest, *wholes):
                each.update(block)
            written.write(block)
            left -= len(block)
    return Piece(path, digest.hexdigest(), size)


# ---- taking it ----


def read_manifest(folder: Path) -> Manifest | None:
    """Returns what should lie in the folder. None: plain wheels do, without a manifest.

    Raises PartsError where the folder is not there, its manifest is missing, or is none.
    """
    if not folder.is_dir():
        raise PartsError(f"{folder}: there is no such folder; python -m tests.gpu.wheels makes it")
    try:
        with (folder / MANIFEST).open("rb") as file:
            text = file.read(MANIFEST_BYTES_MAX + 1)
    except FileNotFoundError:
        if any(folder.glob("part-[0-9]*")):
            raise PartsError(f"{folder}: {MANIFEST} is missing, which comes with the first part") from None
        if not any(folder.glob("*.whl")):
            raise PartsError(f"{folder}: holds no wheels; python -m tests.gpu.wheels makes it") from None
        return None
    if len(text) > MANIFEST_BYTES_MAX:
        raise PartsError(f"{MANIFEST}: has more than {MANIFEST_BYTES_MAX:,} bytes")
    try:
        said = json.loads(text)
        manifest = Manifest(
            str(said["python"]),
            str(said["machine"]),
            tuple(map(str, said["asks"])),
            tuple(
                Whole(each["name"], each["sha256"], each["size_bytes"], tuple(Piece(**one) for one in each["pieces"]))
                for each in said["files"]
            ),
        )
        form = said["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PartsError(f"{MANIFEST}: is damaged ({type(error).__name__}): carry it again") from None
    if form != FORMAT:
        raise PartsError(f"{MANIFEST}: is of format {form!r}, should be {FORMAT}: make the folder again")
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises PartsError where names lead out of the folder, or sizes make no sense."""
    pieces = [piece for file in manifest.files for piece in file.pieces]
    sizes = [file.size_bytes for file in manifest.files] + [piece.size_bytes for piece in pieces]
    if not all(type(size) is int and size >= 0 for size in sizes) or manifest.size_bytes > TOTAL_BYTES_MAX:
        raise PartsError(f"{MANIFEST}: sizes are numbers of bytes, at most {TOTAL_BYTES_MAX:,} together")
    if len(pieces) > PIECES_MAX:
        raise PartsError(f"{MANIFEST}: names {len(pieces)} pieces, should be {PIECES_MAX} at most")
    for file in manifest.files:
        if not _NAME.fullmatch(str(file.name)):
            raise PartsError(f"{MANIFEST}: {file.name!r} is no name of a wheel")
        if file.size_bytes != sum(piece.size_bytes for piece in file.pieces):
            raise PartsError(f"{MANIFEST}: {file.name} is not as long as its pieces")
        for piece in file.pieces:
            if not _PLACE.fullmatch(str(piece.path)):
                raise PartsError(f"{MANIFEST}: {piece.path!r} is no place in a part: part-NNN/NAME.whl")
    names = [file.name for file in manifest.files]
    for name in (name for nth, name in enumerate(names) if name in names[:nth]):
        raise PartsError(f"{MANIFEST}: {name} is there twice")


def joined(folder: Path, manifest: Manifest, into: Path) -> list[Path]:
    """Makes the whole files in the folder `into`, which is made, and returns where they are.

    Raises PartsError that names pieces which are missing or damaged, or where there is no room on the disk.
    """
    pieces = [piece for file in manifest.files for piece in file.pieces]
    lacks = [piece.path for piece in pieces if not _is_there(folder / piece.path)]
    if lacks:
        raise PartsError(f"{folder}: {len(lacks)} of {len(pieces)} pieces are missing: {_some(lacks)}; carry them")
    short = [each.path for each in pieces if (folder / each.path).stat().st_size != each.size_bytes]
    if short:
        raise PartsError(f"{folder}: {_some(short)}: not as long as the manifest says; carry them again")
    into.mkdir(parents=True, exist_ok=True)
    _check_room(into, manifest.size_bytes)
    return [_joined(folder, file, into) for file in manifest.files]


def _joined(folder: Path, file: Whole, into: Path) -> Path:
    target, whole = into / file.name, hashlib.sha256()
    with target.open("wb") as written:
        for piece in file.pieces:
            digest = hashlib.sha256()
            with (folder / piece.path).open("rb") as source:
                while block := source.read(BLOCK_BYTES):
                    for each in (digest, whole):
                        each.update(block)
                    written.write(block)
            if digest.hexdigest() != piece.sha256:
                target.unlink()
                raise PartsError(f"{piece.path}: is damaged, its SHA-256 is not that of the manifest; carry it again")
    if whole.hexdigest() != file.sha256:
        target.unlink()
        raise PartsError(f"{file.name}: its pieces do not make the file of the manifest; make the folder again")
    return target


def _is_there(path: Path) -> bool:
    """An ordinary file, and no link that may lead anywhere."""
    return path.is_file() and not path.is_symlink() and not path.parent.is_symlink()


def _check_room(folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise PartsError(f"{folder}: {size_bytes / 1e6:,.0f} MB are needed on its disk, {free / 1e6:,.0f} MB are free")


def _some(paths: Iterable[str]) -> str:
    named = [*paths]
    rest = len(named) - NAMED_MAX
    return ", ".join(named[:NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")
