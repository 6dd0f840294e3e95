"""Frames of the store as frames that can be run again."""

from duly.sampling.sample import INPUT, Sample
from duly_learn.frames.frame import Encoded, LearnFrame, Value


def as_frame(sample: Sample) -> LearnFrame:
    """Returns the frame as its client sent it."""
    inputs: dict[str, Value] = {}
    for name, array in sample.inputs.items():
        encoding = sample.encodings.get(INPUT + name)
        inputs[name] = array if encoding is None else Encoded(encoding, array.tobytes())
    return LearnFrame(inputs, sample.stream, sample.captured_unix_ns or sample.received_unix_ns)
