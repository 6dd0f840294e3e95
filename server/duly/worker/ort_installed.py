"""Checks that the right ONNX Runtime is installed. Both sides of the channel ask; only metadata is looked at."""

from importlib import metadata

from duly.accelerators import ACCELERATORS
from duly.worker.errors import BackendError

_OTHERS = ("onnxruntime-directml", "onnxruntime-rocm", "onnxruntime-training")
"""Distributions that hold the same module and are of no use here."""


def distributions() -> list[tuple[str, str]]:
    """Returns name and version of each installed distribution that holds the module onnxruntime."""
    found = []
    for name in dict.fromkeys([*(each.wheel for each in ACCELERATORS if each.wheel), *_OTHERS]):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def check_installed() -> tuple[str, str]:
    """Returns name and version of the one ONNX Runtime distribution.

    All distributions hold the same import package. Where there are two, each has overwritten files of the other, and it
    is chance which of them runs.

    Raises:
        BackendError: there is none, there are several, or one of no use.
    """
    found = distributions()
    wheels = {each.wheel: each.extra for each in ACCELERATORS}
    others = ", ".join(f"'duly[{extra}]'" for extra in dict.fromkeys(wheels.values()) if extra not in ("", "cpu"))
    install = f"`pip install 'duly[cpu]'`, or another of {others}"
    if not found:
        raise BackendError(f"ONNX Runtime is not installed: {install}")
    names = [name for name, _ in found]
    if len(found) > 1:
        raise BackendError(
            f"{' and '.join(names)} are installed together and overwrite each other's files: "
            f"`pip uninstall {' '.join(names)}`, then {install}"
        )
    if names[0] not in wheels:
        raise BackendError(f"{names[0]} is not served: `pip uninstall {names[0]}`, then {install}")
    return found[0]
