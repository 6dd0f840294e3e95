"""Which libraries another one needs and the system cannot find: a provider that lacks one does not start, and names
only the first.
"""

import ctypes
import struct
from collections.abc import Iterable
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5
NEEDED_MAX = 256
"""A library names no more that it needs."""


def missing(library: Path, also: Iterable[str] = ()) -> list[str]:
    """Returns the names of the libraries that `library` needs and that cannot be loaded: those beside it count as
    there. `also`: what it loads by itself when it runs. Loading them runs their code.
    """
    needed = [*needs(library), *also] if library.name else [*also]
    return [name for name in dict.fromkeys(needed) if not (library.parent / name).exists() and not _loads(name)]


def needs(library: Path) -> list[str]:
    """Returns the names that the dynamic section of a library of ELF, 64 bits, little endian, has as needed; none where
    it is no such library.
    """
    try:
        return _needs(library.read_bytes())
    except (OSError, struct.error, ValueError, OverflowError, StopIteration):
        return []


def _needs(data: bytes) -> list[str]:
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    (at,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, at + size * nth) for nth in range(count)]
    dynamic = next(segment for segment in segments if segment[0] == _PT_DYNAMIC)
    entries = [struct.unpack_from("<QQ", data, dynamic[2] + place) for place in range(0, dynamic[5], 16)]
    address = next(value for tag, value in entries if tag == _DT_STRTAB)
    names = next(
        address - start + offset
        for kind, _, offset, start, _, length in segments
        if kind == _PT_LOAD and start <= address < start + length
    )
    places = [names + value for tag, value in entries if tag == _DT_NEEDED][:NEEDED_MAX]
    return [data[place : data.index(b"\0", place)].decode("ascii") for place in places]


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
