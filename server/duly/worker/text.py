"""Tensors of text as they are sent and as they lie in a region: the elements one behind the other, each as the number
of its bytes, 32 bits without a sign and little-endian, and then so many bytes of UTF-8. KServe's BYTES are the same.

The bytes are anybody's. Nothing is looked up that was not found to be inside, and the work is one pass over at most
TEXT_ELEMENTS_MAX elements.
"""

from collections.abc import Sequence
from struct import Struct

from duly.models.spec import TEXT_ELEMENTS_MAX

LENGTH = Struct("<I")
"""What stands before the bytes of each element."""


class TextError(Exception):
    """Bytes are no tensor of text. The message says what is wrong, and in which element."""


def read_texts(data: bytes, count: int) -> list[str]:
    """Returns the `count` elements in their order.

    Raises:
        TextError: there are not just so many elements, or more than TEXT_ELEMENTS_MAX, or one is no UTF-8.
    """
    if count > TEXT_ELEMENTS_MAX:
        raise TextError(f"{count:,} elements of text, at most {TEXT_ELEMENTS_MAX:,} are taken")
    texts: list[str] = []
    at, end = 0, len(data)
    length_at, head = LENGTH.unpack_from, LENGTH.size
    for _ in range(count):
        begin = at + head
        if begin > end:
            where = f"after {len(texts)} of {count} elements" + (" and a part of a length" if at < end else "")
            raise TextError(f"its {end} bytes end {where}")
        (length,) = length_at(data, at)
        at = begin + length
        if at > end:
            raise TextError(f"element {len(texts)} of {count} states {length} bytes, {end - begin} are left")
        try:
            texts.append(str(data[begin:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise TextError(
                f"element {len(texts)} of {count} is no UTF-8: byte {error.start} of its {length} is "
                f"0x{data[begin + error.start]:02x} ({error.reason})"
            ) from None
    if at != end:
        raise TextError(f"{end - at} bytes follow the last of its {count} elements")
    return texts


def write_texts(texts: Sequence[str]) -> bytes:
    """Returns the elements as they are sent. Raises UnicodeEncodeError where one has half a character."""
    return with_lengths([text.encode() for text in texts])


def with_lengths(elements: Sequence[bytes]) -> bytes:
    """Returns elements as they are sent, each behind its length, whatever their bytes are."""
    return b"".join([piece for element in elements for piece in (LENGTH.pack(len(element)), element)])
