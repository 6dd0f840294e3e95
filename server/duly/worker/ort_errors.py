"""Puts ONNX Runtime's errors into plain words: one sentence without source lines, signatures or paths.

Reasons reach clients, so they must not hold a path of the server. The patterns fit ONNX Runtime 1.31. Text that fits
none of them is only stripped of what must not be there.
"""

import re

REASON_CHARS_MAX = 500

_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |^Error in execution: ")
_SOURCE = re.compile(r"/\S+\.(?:cc|cpp|cu|h|hpp|cuh):\d+ .*?\)(?: const)?(?: \[with [^\]]*\])? ")
_SHORT_SOURCE = re.compile(r"\b\w+\.(?:cc|cpp|cu|h|hpp|cuh):\d+ \w+ ")
_LOADING = re.compile(r"Load model (?:from )?.*? failed[:.]\s*")
_NODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")
_OUTPUT = re.compile(
    r"The output OrtValue provided for output '([^']*)' of node .* has shape (\{.*?\}) "
    r"but the computed output shape for this run is (\{.*?\})\. .*"
)
_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/\"':]+/)+")

_LOAD_REASONS = (
    (
        r"[Pp]rotobuf parsing failed|No graph was found",
        "is not a whole ONNX file (is it still being written?); copy or export it again",
    ),
    (
        r"Opset (\d+) is under development.*domain (\S+) is till opset (\d+)",
        r"needs opset \1 of \2, the installed ONNX Runtime knows up to \3; export it with a lower opset",
    ),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        r"has IR version \1, the installed ONNX Runtime knows up to \2; export it with a lower one",
    ),
    (
        r"No Op registered for (\S+) with domain_version of (\d+)",
        r"operator \1 does not exist in opset \2; export it with the operators of ONNX",
    ),
    (
        r"Fatal error: (\S+?)\(-?\d+\) is not a registered function/op",
        r"operator \1 is not part of ONNX Runtime; export it with the operators of ONNX",
    ),
    (
        r"Could not find an implementation for (\w+)\((\d+)\)",
        r"operator \1 of opset \2 has no implementation for its element types on the providers asked for",
    ),
)


def load_reason(text: str) -> str:
    """Says what is wrong with a model, as the second half of a sentence that begins with the file's name."""
    plain = run_reason(text)
    for pattern, reason in _LOAD_REASONS:
        if found := re.search(pattern, plain):
            return found.expand(reason)
    return plain


def run_reason(text: str) -> str:
    """Says what went wrong in a run."""
    plain = " ".join(text.split()) + " "
    for pattern in (_CODE, _LOADING, _SOURCE, _SHORT_SOURCE):
        plain = pattern.sub("", plain)
    plain = _NODE.sub(r"\1 node '\2': ", plain)
    plain = _OUTPUT.sub(r"output '\1' has shape \3; \2 was expected: one row for each frame of the batch", plain)
    return _FOLDERS.sub("", plain).strip()[:REASON_CHARS_MAX]
