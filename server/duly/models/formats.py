"""Files that lie where a model should, or are named as one, and are something else: what they are and what would do."""

import zipfile
from pathlib import Path, PurePosixPath

from duly.models.files import open_ordinary

MODEL_BYTES_MAX = 2**31 - 1
"""The largest ONNX file: it is one protobuf message, which has a length below 2 GiB."""

BEGINNING_BYTES = 4096
"""So much of a file tells what it is."""

_TORCH = 'PyTorch\'s; export it: torch.onnx.export(model, inputs, "model.onnx")'
_KERAS = 'Keras\'s; export it: model.export("model.onnx", format="onnx")'
_PICKLE = "a Python pickle; export it with skl2onnx, onnxmltools or torch.onnx.export"
_TFLITE = "TensorFlow Lite's; convert it: python -m tf2onnx.convert --tflite FILE --output model.onnx"
_SAVED_MODEL = "TensorFlow's; convert it: python -m tf2onnx.convert --saved-model FOLDER --output model.onnx"
_TENSORRT = (
    "an engine of TensorRT, made for one kind of GPU; give the ONNX file that it was built from, and in model.toml "
    'providers = [{ name = "TensorrtExecutionProvider" }]'
)
_OPENVINO = "OpenVINO's; give the ONNX file that it was converted from"
_ORT = "of ONNX Runtime's own format, which is not served; give the ONNX file that it was made from"
_WEIGHTS = "weights without a graph; export the model to ONNX with the library that made them"

_ARCHIVE = "an archive; unpack it"
_COMPRESSED = "compressed; unpack it"
_MODELS = {
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".pt2": _TORCH,
    ".ckpt": _TORCH,
    ".torchscript": _TORCH,
    ".keras": _KERAS,
    ".tflite": _TFLITE,
    ".pb": _SAVED_MODEL,
    ".plan": _TENSORRT,
    ".engine": _TENSORRT,
    ".trt": _TENSORRT,
    ".ort": _ORT,
    ".safetensors": _WEIGHTS,
    ".gguf": _WEIGHTS,
    ".caffemodel": _WEIGHTS,
    ".pdmodel": "PaddlePaddle's; convert it with paddle2onnx",
    ".mlmodel": "Core ML's; give the ONNX file of the same model",
    ".mar": "an archive of TorchServe; export the model in it with torch.onnx.export",
}
"""What is a model whatever else lies there, by the end of its name."""
_MAYBE_MODELS = {
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".xml": _OPENVINO,
    ".weights": _WEIGHTS,
    ".zip": _ARCHIVE,
    ".tar": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".7z": _ARCHIVE,
    ".gz": _COMPRESSED,
    ".zst": _COMPRESSED,
    ".bz2": _COMPRESSED,
    ".xz": _COMPRESSED,
}
"""What is one only where a model is looked for; elsewhere it may be data."""
_BY_BEGINNING = (
    (b"\x89HDF", _KERAS),
    (b"GGUF", _WEIGHTS),
    (b"\x93NUMPY", "an array of NumPy; export the model"),
    (b"ftrt", _TENSORRT),
    (b"ptrt", _TENSORRT),
    (b"\x1f\x8b", "compressed (gzip); unpack it"),
    (b"BZh", "compressed (bzip2); unpack it"),
    (b"\xfd7zXZ", "compressed (xz); unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd); unpack it"),
    (b"7z\xbc\xaf", "an archive (7z); unpack it"),
    (b"Rar!", "an archive (rar); unpack it"),
    *((b"\x80" + bytes([protocol]), _PICKLE) for protocol in range(2, 6)),
)


def is_onnx(name: str) -> bool:
    """Whether a file is one of ONNX by its name."""
    return name.lower().endswith(".onnx")


def is_model(name: str) -> bool:
    """Whether a file is a model of any format by its name."""
    return is_onnx(name) or PurePosixPath(name.lower()).suffix in _MODELS


def named(name: str) -> str:
    """Says what a file is by its name that lies where an ONNX file should, and what would do; empty: unknown."""
    suffix = PurePosixPath(name.lower()).suffix
    return _MODELS.get(suffix, "") or _MAYBE_MODELS.get(suffix, "")


def too_large(size: int) -> str:
    """Says that a model file of `size` bytes cannot be read, and what to do; empty: it can be."""
    if size <= MODEL_BYTES_MAX:
        return ""
    return (
        f"is {size / 1e9:.1f} GB in one file, and ONNX files end at 2 GiB (2.1 GB); export it with external data: "
        "onnx.save(model, path, save_as_external_data=True)"
    )


def stand_in(beginning: bytes) -> str:
    """Says what a file is that a tool put into the place of the one that was wanted; empty: nothing of the kind."""
    text = beginning[:BEGINNING_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; fetch that: git lfs pull"
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page (HTML); download the file itself, such as by its raw link"
    return ""


def contents(file: Path) -> str:
    """Says what a file is that is not a whole ONNX file, as in "is empty (0 bytes); copy or export it again".

    Raises OSError where it cannot be read.
    """
    size = file.stat().st_size
    if large := too_large(size):
        return large
    with open_ordinary(file) as opened:
        head = opened.read(BEGINNING_BYTES)
    if not head:
        return "is empty (0 bytes); copy or export it again"
    if not head.strip(b"\0"):
        return f"begins with {len(head):,} bytes of zero: a copy or download that did not end; copy it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if found := stand_in(head):
        return found
    if text.startswith(b"<"):
        return f"is {_OPENVINO}" if b"<net" in text else "is XML, not a model; download or export it again"
    if head.startswith(b"PK\x03\x04"):
        return f"is {_archive(file)}"
    for beginning, what in _BY_BEGINNING:
        if head.startswith(beginning):
            return f"is {what}"
    if head[4:8] == b"TFL3":
        return f"is {_TFLITE}"
    if head[4:8] == b"ORTM":
        return f"is {_ORT}"
    if head[:3] == b"\x08\x01\x12" and b"serve" in head:
        return f"is {_SAVED_MODEL}"
    if head[257:262] == b"ustar":
        return "is an archive (tar); unpack it"
    if head[8:10] in (b'{"', b"{ ") and int.from_bytes(head[:8], "little") < size:
        return f"is {_WEIGHTS}"
    if text[:1] in (b"{", b"["):
        return "is JSON, not a model; download or export it again"
    return f"is not a whole ONNX file ({size:,} bytes; is it still being written?); copy or export it again"


def _archive(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return "an archive (zip), and not a whole one; copy it again and unpack it"
    if any(name.endswith("data.pkl") for name in names):
        return _TORCH
    if any(name.endswith((".weights.h5", ".keras")) for name in names):
        return _KERAS
    inside = next((name for name in names if is_onnx(name)), "")
    return f"an archive (zip) that holds {inside}; unpack it" if inside else "an archive (zip); unpack it"
