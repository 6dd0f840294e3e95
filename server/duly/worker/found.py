"""Tells what the installed ONNX Runtime has, for `duly doctor`.

    python -P -m duly.worker.found

is a process of its own, as drivers may hang or crash, and as the serving process loads no ONNX Runtime. It writes to
standard output, as JSON, its `version`; the `providers` that it has built in, and those of plugins; the `devices` that
providers find, by provider; the `libraries` that a provider needs and that are not there; and `problems` of plugins.
"""

import json
from pathlib import Path
from typing import Any

from duly.accelerators import ACCELERATORS, CUDA, OPENVINO, TENSORRT, WEBGPU
from duly.worker import ort_session
from duly.worker.plugins import plugin_of
from duly.worker.providers import ProviderError
from duly.worker.shared_libraries import missing

_OWN = {CUDA: ("libcuda.so.1",), TENSORRT: ("libcuda.so.1",), WEBGPU: ("libvulkan.so.1",)}
"""What a provider loads by itself."""


def found() -> dict[str, Any]:
    """Returns what is described above."""
    version, built_in, folder = ort_session.release()
    providers, devices, libraries, problems = list(built_in), {}, {}, {}
    ort_session.find_libraries()
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
                devices[row.provider] = ort_session.openvino_devices()
            continue
        providers.append(row.provider)
        try:
            devices[row.provider] = ort_session.plugin_devices(row.provider, library)
        except ProviderError as error:
            problems[row.provider] = str(error)
    return {
        "version": version,
        "providers": providers,
        "devices": devices,
        "libraries": libraries,
        "problems": problems,
    }


if __name__ == "__main__":
    print(json.dumps(found()))
