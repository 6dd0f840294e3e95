"""Checks that the right ONNX Runtime is installed. Both sides of the channel ask; only metadata is looked at."""

from importlib import metadata

from duly.worker.errors import BackendError


def check_installed() -> tuple[str, str]:
    """Returns name and version of the one ONNX Runtime distribution.

    Both distributions hold the same import package. Where both are installed, each has overwritten files of the other,
    and it is chance which of them runs.

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
