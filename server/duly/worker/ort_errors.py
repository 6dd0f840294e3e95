"""Puts ONNX Runtime's errors into plain words: one sentence without source lines, signatures or paths.

Reasons reach clients, so they must hold neither a path of the server nor the machine's name. The patterns fit ONNX
Runtime 1.24 to 1.32. Text that fits none of them is only stripped of what must not be there.
"""

import re
from pathlib import Path

from duly.models.formats import contents

REASON_CHARS_MAX = 500
"""Longer texts of ONNX Runtime are cut off."""

_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |^Error in execution: ")
_SOURCE = re.compile(r"/\S+\.(?:cc|cpp|cu|h|hpp|cuh):\d+ .*?\)(?: const)?(?: \[with [^\]]*\])? ")
_SHORT_SOURCE = re.compile(r"\b\w+\.(?:cc|cpp|cu|h|hpp|cuh):\d+ \w+ ")
_FALSE = re.compile(r"\S+\.(?:cc|cpp|cu|h|hpp|cuh):\d+ \S.*? was false\. ")
_OPENVINO = re.compile(r"Exception from src/\S+?:\d+: |Check '.*?' failed at src/\S+?:\d+: ")
_LOADING = re.compile(r"Load model (?:from )?.*? failed[:.]\s*")
_NODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")
_OUTPUT = re.compile(
    r"The output OrtValue provided for output '([^']*)' of node .* has shape (\{.*?\}) "
    r"but the computed output shape for this run is (\{.*?\})\. .*"
)
_DIMENSIONS = re.compile(
    r"Got invalid dimensions for output: (\S+) for the following indices "
    r"index: (\d+) Got: (\d+) Expected: (\d+)( index: \d+ Got: \d+ Expected: \d+)* Please fix .*"
)
_WHERE = re.compile(r" ; (?:\w+=-?\d+ ; )?hostname=.*")
"""What providers for GPUs end errors of the device with: its number, the machine's name, the source file, the call."""
_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/\"':]+/)+")

_EXPORT = "export it with the operators of ONNX"
_LOAD_REASONS = (
    (
        r"Opset (\d+) is under development.*domain (\S+) is till opset (\d+)",
        r"needs opset \1 of \2, the installed ONNX Runtime knows up to \3; export it with a lower opset "
        r"(opset_version=\3), or install a newer onnxruntime",
    ),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        r"has IR version \1, the installed ONNX Runtime knows up to \2; export it with a lower one "
        r"(model.ir_version = \2 before onnx.save), or install a newer onnxruntime",
    ),
    (r"No Op registered for (\S+) with domain_version of (\d+)", rf"operator \1 does not exist in opset \2; {_EXPORT}"),
    (
        r"No opset import for domain '(\S*)'",
        r"uses operators of \1 and does not say which opset of it; export it again",
    ),
    (
        r"Fatal error: (ai\.onnx\.contrib:\S+?)\(-?\d+\) is not a registered",
        rf"operator \1 is one of onnxruntime-extensions, which is not loaded; do its work in the client, {_EXPORT}",
    ),
    (
        r"Fatal error: (\S*_TRT|trt\.plugins:\S+?)\(-?\d+\) is not a registered",
        rf"operator \1 is a plugin of TensorRT and not part of ONNX Runtime; {_EXPORT}, without the end-to-end option",
    ),
    (
        r"Fatal error: (\S*[Aa][Tt]en:?\S*?)\(-?\d+\) is not a registered",
        rf"operator \1 is one of PyTorch that has no ONNX form; {_EXPORT} (torch.onnx.export(..., dynamo=True))",
    ),
    (
        r"Fatal error: (\S+?)\(-?\d+\) is not a registered function/op",
        rf"operator \1 is not part of ONNX Runtime, and libraries of custom operators are not loaded; {_EXPORT}",
    ),
    (
        r"Could not find an implementation for (\w+)\((\d+)\)",
        r"operator \1 of opset \2 has no implementation for its element types on the providers asked for; export it "
        "with FP32, or with a newer opset",
    ),
    (
        r"MLDataType for: tensor\((\w+)\) is not currently registered",
        r"has a tensor of \1, which ONNX Runtime does not run; export it with FP32, complex numbers as two of them",
    ),
    (
        r"Type Error: (Type '?\(?tensor\(\w+\)\)?'? of .*?)\.?$",
        r"is not a valid graph: \1; export it with the element types of the operators, see onnx.checker.check_model",
    ),
    (
        r"(Node input '[^']*' is not a graph input.*?|Graph output \(\S+\) does not exist in the graph)\.?$",
        r"is not a valid graph: \1; export it again, see onnx.checker.check_model",
    ),
    (
        r"(?:Node \(([^)]*)\) )?Op \((\w+)\) (?:Node \([^)]*\) )?\[(?:Shape|Type)InferenceError\] (.*?)\.?$",
        r"is not a valid graph: node '\1' (\2): \3; export it again, see onnx.checker.check_model",
    ),
    (
        r"Failed to construct locale with name: ?(\S+?):",
        r"needs the locale \1 for upper and lower case, which this machine does not have; install it (the packages "
        r"locales and locale-gen of Debian), or export with StringNormalizer's locale C.UTF-8",
    ),
)


def full_reason(text: str, of_device: bool) -> str:
    """Says that there is not enough memory to load a model. `of_device`: its lane is on a device with its own."""
    if "Available memory of" in text:  # of an arena that has a limit
        return "may not have the memory that loading it takes (device_memory_bytes_max, worker_device_memory_bytes_max)"
    if of_device:
        return "there is not enough memory to load it, on the device of its lane or in its worker"
    return "there is not enough memory to load it; see worker_memory_bytes_max"


def load_reason(text: str, file: Path, provider: str = "") -> str:
    """Says what is wrong with model `file`, as the second half of a sentence that begins with the file's name.

    `provider`: who had it, and how that begins; it stands before what is not known to be the file's own fault.
    """
    plain = run_reason(text)
    if re.search(r"[Pp]rotobuf parsing failed|No graph was found", plain):
        return contents(file)
    for pattern, reason in _LOAD_REASONS:
        if found := re.search(pattern, plain):
            return found.expand(reason)
    return f"{provider}{plain}"


def run_reason(text: str) -> str:
    """Says what went wrong in a run."""
    plain = " ".join(text.split()) + " "
    for pattern in (_WHERE, _CODE, _LOADING, _FALSE, _SOURCE, _SHORT_SOURCE, _OPENVINO):
        plain = pattern.sub("", plain)
    plain = _NODE.sub(r"\1 node '\2': ", plain)
    plain = _OUTPUT.sub(r"output '\1' has shape \3; \2 was expected: one row for each frame of the batch", plain)
    plain = _DIMENSIONS.sub(
        r"output '\1' has an extent of \4 in dimension \2, \3 was expected there: one row for each frame of the batch, "
        "and of a state the shape that it goes in with",
        plain,
    )
    return _FOLDERS.sub("", plain).strip()[:REASON_CHARS_MAX]
