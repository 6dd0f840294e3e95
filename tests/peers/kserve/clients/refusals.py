"""What tritonclient raises where a server says no."""

from collections.abc import Callable, Sequence
from typing import Any

from tritonclient.utils import InferenceServerException


def refused(codes: str, words: Sequence[str], call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The text of the error that `call` ends with. It has one of the gRPC codes, which are apart by `|`, and the
    words.
    """
    try:
        call(*args, **options)
    except InferenceServerException as raised:
        code, text = raised.status().removeprefix("StatusCode."), raised.message()
    else:
        raise AssertionError(f"it was taken, and should be {codes}")
    assert code in codes.split("|"), f"{code}: {text}"
    lacking = [word for word in words if word not in text]
    assert not lacking, f"{text!r} lacks {lacking}"
    return str(text)
