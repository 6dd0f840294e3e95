"""Is the right ONNX Runtime installed? Asked by both sides of the channel; looks at metadata alone."""

from importlib import metadata


class BackendError(Exception):
    """The installation can't run models; the message says what to install."""


def check_installed() -> tuple[str, str]:
    """Name and version of the one ONNX Runtime distribution.

    The two distributions hold the same import package: installed together, files of one overwrite those of the other,
    and which of them runs is chance.

    Raises:
        BackendError: there is none, or there are both.
    """
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    if not found:
        raise BackendError("ONNX Runtime is not installed: `pip install 'duly[cpu]'`, or `pip install 'duly[gpu]'`")
    if len(found) > 1:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then `pip install 'duly[cpu]'` or `pip install 'duly[gpu]'`"
        )
    return found[0]
