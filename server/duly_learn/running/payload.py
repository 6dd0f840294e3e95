"""Makes of a frame what a worker is given for it, with the checks that a server makes of a client's frame."""

import numpy as np

from duly.models.spec import Signature
from duly.runtime.held_frames import InputData
from duly.streams.errors import InvalidFrame
from duly.streams.inputs import InputChecks
from duly.worker.dtypes import BFLOAT16, DTYPES, TEXT, datatype_of
from duly.worker.text import write_texts
from duly_learn.frames.frame import Array, Encoded, LearnFrame

_SAVED_BFLOAT16 = np.dtype("V2")


class Payloads:
    """Makes payloads of frames for one model."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._checks = InputChecks(signature)

    def of(self, frame: LearnFrame) -> list[InputData]:
        """Returns one entry for each input. Raises InvalidFrame, which says what does not fit."""
        payload: list[InputData | None] = [None] * self._checks.count
        for name, value in frame.inputs.items():
            index = self._checks.index(name)
            if isinstance(value, Encoded):
                data = self._checks.encoded(index, value.encoding, value.data)
            else:
                data = self._tensor(index, value)
            self._checks.put(payload, index, data)
        return self._checks.complete(payload)

    def _tensor(self, index: int, array: Array) -> InputData:
        spec = self._signature.inputs[index]
        if spec.datatype == "BF16" and array.dtype in (np.uint16, _SAVED_BFLOAT16):
            array = np.ascontiguousarray(array).view(BFLOAT16).reshape(array.shape)
        if array.dtype not in DTYPES.values():
            raise InvalidFrame(f"input {spec.name!r}: elements of {array.dtype}, the model takes {spec.datatype}")
        data = write_texts(array.ravel().tolist()) if array.dtype == TEXT else np.ascontiguousarray(array).tobytes()
        return self._checks.tensor(index, datatype_of(array.dtype), array.shape, data)
