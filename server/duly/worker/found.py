"""Tells what the installed ONNX Runtime has, for `duly doctor`.

    python -P -m duly.worker.found

is a process of its own, as drivers may hang or crash, and as the serving process loads no ONNX Runtime. It writes to
standard output, as JSON, its `version`; the `providers` that it has built in, and those of plugins; the `devices` that
providers find, by provider; the `libraries` that a provider needs and that are not there; and `problems` of plugins.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from duly.accelerators import ACCELERATORS, CUDA, OPENVINO, TENSORRT, WEBGPU, of_provider
from duly.worker.open_session import plugin_devices
from duly.worker.ort_import import onnxruntime
from duly.worker.plugins import plugin_of
from duly.worker.providers import ProviderError
from duly.worker.shared_libraries import missing

_OWN = {CUDA: ("libcuda.so.1",), TENSORRT: ("libcuda.so.1",), WEBGPU: ("libvulkan.so.1",)}
"""What a provider loads by itself."""


def found() -> dict[str, Any]:
    """Returns what is described above."""
    built_in, folder = list(onnxruntime.get_available_providers()), Path(onnxruntime.capi.__path__[0])
    providers, devices, libraries, problems = list(built_in), {}, {}, {}
    _find_libraries(built_in)
    for row in ACCELERATORS:
        library = None
        if row.provider in built_in:
            library = folder / f"libonnxruntime_providers_{row.provider.removesuffix('ExecutionProvider').lower()}.so"
        elif row.plugin:
            try:
                library = plugin_of(row.provider)
            except ProviderError as error:
                problems[row.provider] = str(error)
        if library is None:
            continue
        lacking = missing(library if library.exists() else Path(), _OWN.get(row.provider, ()))
        if lacking:
            libraries[row.provider] = lacking
        if row.provider in built_in:
            if row.provider == OPENVINO:
                devices[row.provider] = _openvino_devices()
            continue
        providers.append(row.provider)
        try:
            devices[row.provider] = _plugin_devices(row.provider, library)
        except ProviderError as error:
            problems[row.provider] = str(error)
    return {
        "version": onnxruntime.__version__,
        "providers": providers,
        "devices": devices,
        "libraries": libraries,
        "problems": problems,
    }


def _find_libraries(built_in: list[str]) -> None:
    """Loads CUDA and cuDNN as pip installs them, which are on no search path; what is not there is left out."""
    if CUDA in built_in:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints what it does not find
            onnxruntime.preload_dlls()


def _openvino_devices() -> list[str]:
    """Returns the devices that a built-in OpenVINO finds, by its own names."""
    return [str(name) for name in onnxruntime.capi._pybind_state.get_available_openvino_device_ids()]


def _plugin_devices(provider: str, library: Path) -> list[str]:
    """Returns the devices that a plugin finds, in words. Raises ProviderError where it finds none, or does not load."""
    row = of_provider(provider)
    found = plugin_devices(provider, library, row.plugin if row is not None else library.name)
    return [
        dict(each.ep_metadata).get("ov_device")
        or dict(each.device.metadata).get("Description")
        or f"{each.device.vendor} {each.device.type.name}"
        for each in found
    ]


if __name__ == "__main__":
    print(json.dumps(found()))
