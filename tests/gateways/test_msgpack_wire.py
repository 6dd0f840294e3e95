"""Messages of openpi-client: what is written is what is read, and nothing but what is taken gets in."""

import contextlib
import io
import pickle
import re
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from duly_gateways.openpi import msgpack_wire
from duly_gateways.openpi.msgpack_wire import DEPTH_MAX, ITEMS_MAX, BadMessage

ARRAYS = st_numpy.arrays(
    st.one_of(
        st_numpy.boolean_dtypes(),
        st_numpy.integer_dtypes(),
        st_numpy.unsigned_integer_dtypes(),
        st_numpy.floating_dtypes(sizes=(16, 32, 64)),
    ),
    st_numpy.array_shapes(min_dims=0, max_dims=4, max_side=4),
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
VALUES = st.recursive(PLAIN | ARRAYS, lambda inner: st.dictionaries(st.text(), inner, max_size=4), max_leaves=8)


def equal(got: Any, sent: Any) -> bool:
    if isinstance(sent, dict):
        return isinstance(got, dict) and got.keys() == sent.keys() and all(equal(got[k], sent[k]) for k in sent)
    if isinstance(sent, np.ndarray):
        return got.dtype == sent.dtype and got.shape == sent.shape and got.tobytes() == sent.tobytes()
    return bool(got == sent)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_is_written_is_read(sent: dict[str, Any]) -> None:
    assert equal(msgpack_wire.read(msgpack_wire.written(sent)), sent)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_named(message: bytes) -> None:
    with contextlib.suppress(BadMessage):
        assert isinstance(msgpack_wire.read(message), dict)


@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=3), st.data())
def test_messages_that_are_spoilt_are_read_or_named(sent: dict[str, Any], data: st.DataObject) -> None:
    message = bytearray(msgpack_wire.written(sent))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadMessage):
        msgpack_wire.read(bytes(message))


def array(**changed: Any) -> bytes:
    entries = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2]}
    entries |= {key.encode(): value for key, value in changed.items()}
    return bytes(msgpack.packb({"x": entries}))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (array(dtype="|O"), "dtype '|O' is not taken"),
        (array(dtype="<U2"), "is not taken"),
        (array(dtype="<c8"), "is not taken"),
        (array(dtype="<M8"), "is not taken"),
        (array(dtype="f4,f4"), "is not taken"),
        (array(dtype="<f1"), "no dtype"),
        (array(dtype=[["a", "<f4"]]), "no dtype"),
        (array(shape=[3]), "8 bytes do not fill"),
        (array(shape=[-2, -1]), "no shape"),
        (array(shape=[True, 2]), "no shape"),
        (array(shape=[1] * 9 + [2]), "10 dimensions"),
        (array(shape=[1 << 40, 0], data=b""), "no shape"),
        (array(shape=[(1 << 31) - 1] * 7 + [0], data=b""), "no array can have"),
        (array(data="text"), "no data"),
        (bytes(msgpack.packb([1])), "is a map, got list"),
        (bytes(msgpack.packb({b"x": 1})), "expected a text"),
        (bytes(msgpack.packb({"m": {b"x": 1}})), "expected a text"),
        (b"\x81\xa1\xff\x01", "not UTF-8"),
        (b"\x81\x01\x01", "no msgpack"),
        (bytes(msgpack.packb({"t": msgpack.Timestamp(1)})), "extension"),
        (b"\x91" * (DEPTH_MAX + 1) + b"\xc0", f"more than {DEPTH_MAX} deep"),
        (b"\xdd\xff\xff\xff\xff", "cut off"),
        (b"\xdd\xff\xff\xff\xff" + b"\x90" * (ITEMS_MAX + 1), f"more than {ITEMS_MAX} values"),
        (b"\xc6\xff\xff\xff\xff", "end at byte 4294967300 of 5"),
        (b"\x80\x80", "end at byte 1 of 2"),
        (bytes(msgpack.packb({"n": {b"__npgeneric__": True, b"dtype": "<i2", b"data": "1"}})), "expected a number"),
        (bytes(msgpack.packb({"n": {b"__npgeneric__": True, b"dtype": "|u1", b"data": 300}})), "300 is no uint8"),
    ],
)
def test_what_is_wrong_is_named(message: bytes, words: str) -> None:
    with pytest.raises(BadMessage, match=re.escape(words)):
        msgpack_wire.read(message)


def test_nothing_is_unpickled() -> None:
    held = io.BytesIO()
    np.save(held, np.array([{}], object), allow_pickle=True)
    for data in (held.getvalue(), pickle.dumps(print)):
        with pytest.raises(BadMessage):
            msgpack_wire.read(array(dtype="|O8", data=data))
        assert msgpack_wire.read(bytes(msgpack.packb({"x": data}))) == {"x": data}
