"""What a file is by its first bytes, whatever its name says."""

HEAD_BYTES = 16
"""So many first bytes are looked at."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WAVE", "WAV"),
    (8, b"WEBP", "WEBP"),
    (8, b"AVI ", "AVI"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "MP4"),
    (4, b"jP  \r\n", "JPEG 2000"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"\x93NUMPY", ".npy"),
    (0, b"PK\x03\x04", "ZIP or .npz"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x1aE\xdf\xa3", "Matroska"),
    (0, b"OggS", "Ogg"),
    (0, b"fLaC", "FLAC"),
    (0, b"ID3", "MP3"),
    (0, b"riff\x2e\x91", "Wave64"),
    (0, b"\x00\x05\x16\x07", "AppleDouble"),
)
_TEXT = frozenset(b"\t\n\r" + bytes(range(32, 127)))


def kind_of(data: bytes) -> str:
    """The format by its usual name, such as "PNG"; "text"; or "" where the first bytes say nothing."""
    for at, magic, name in _MAGIC:
        if data[at : at + len(magic)] == magic:
            return name
    return "text" if data and _TEXT.issuperset(data[:HEAD_BYTES]) else ""


def begins_with(data: bytes) -> str:
    """What a file is, for messages about one that is not what its name says."""
    if not data:
        return "the file is empty"
    kind = kind_of(data)
    return f"it is {kind}" if kind else f"it begins with {data[:4].hex(' ').upper()}"
