"""Plugins of ONNX Runtime that are installed as packages of their own, beside the plain onnxruntime.

They are trusted as everything is that was installed; a library that a model names is another matter (libraries.py).
"""

import importlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from duly.accelerators import OPENVINO, of_provider
from duly.worker.providers import ProviderError

DEVICES_TOLD_MAX = 8
"""An error names so many of the devices that a plugin finds."""
_OPENVINO_DEVICE = "ov_device"
"""What OpenVINO's plugin calls its name of a device among what it says of it."""


def plugin_of(provider: str) -> Path | None:
    """Returns the library of the plugin that brings a provider, if its package is installed; else None. Raises
    ProviderError where the package is there and its library is not.
    """
    row = of_provider(provider)
    if row is None or not row.plugin or not _installed(row.plugin):
        return None
    try:
        find: Callable[[], str] = importlib.import_module(row.plugin.replace("-", "_")).get_library_path
        return Path(find())
    except Exception as error:
        raise ProviderError(
            f"{provider}: the package {row.plugin} is damaged ({type(error).__name__}): install it again"
        ) from error


def chosen(provider: str, device: str, metadata_of: Sequence[dict[str, str]]) -> int:
    """Returns which of a plugin's devices, in its own order, the lane of `device` is on.

    `metadata_of`: what the plugin says of each. Raises ProviderError where there is none of this name or number.
    """
    if provider == OPENVINO:
        names = [said.get(_OPENVINO_DEVICE, "") for said in metadata_of]
        if device in names:
            return names.index(device)
        matching = [nth for nth, name in enumerate(names) if name.partition(".")[0] == device]
        if matching:
            return matching[0]
        there = ", ".join(names[:DEVICES_TOLD_MAX]) or "none"
        raise ProviderError(f"{provider}: its plugin finds no device {device}; there is: {there}")
    if int(device) < len(metadata_of):
        return int(device)
    raise ProviderError(
        f"{provider}: its plugin finds {len(metadata_of)} devices, counted from 0, and none of number {device}"
    )


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
