"""Which extra of duly fits this machine, for `make setup`. It works before anything is installed.

    PYTHONPATH=server python3 -m duly.chosen_extra                    says which
    PYTHONPATH=server python3 -m duly.chosen_extra --clashing openvino

says which distributions hold the same module as that extra's and must not be there beside it. The order is: a GPU of
NVIDIA that works; an NPU or a GPU of Intel that the kernel drives, where this Python has wheels for it; else the
processor. `webgpu` and `tensorrt-rtx` are for who asks for them, as what they run on is served by others already.
"""

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from duly.accelerators import ACCELERATORS, CPU
from duly.hardware import INTEL, ROOT, accel_nodes, nvidia_gpus, render_nodes

_INTEL_NPU = "intel_vpu"


def chosen(root: Path = ROOT, python: tuple[int, int] = sys.version_info[:2], machine: str = platform.machine()) -> str:
    """Returns the extra for what is there. `python`, `machine`: what wheels are to be for."""
    if nvidia_gpus() and _has_wheels("gpu", python, machine):
        return "gpu"
    npus = [node for node in accel_nodes(root) if node.driver == _INTEL_NPU]
    gpus = [node for node in render_nodes(root) if node.vendor == INTEL]
    if (npus or gpus) and _has_wheels("openvino", python, machine):
        return "openvino"
    return "cpu"


def clashing(extra: str) -> list[str]:
    """Returns the distributions that hold the module `onnxruntime`, the one of `extra` last. Raises ValueError where
    there is no such extra.
    """
    own = {each.extra: each.wheel for each in ACCELERATORS if each.extra}
    if extra not in own:
        raise ValueError(f"ACCELERATOR={extra}: should be one of {', '.join(own)}")
    plain = next(each.wheel for each in ACCELERATORS if each.provider == CPU)
    wanted = own[extra] or plain  # a plugin stands beside the plain one
    others = dict.fromkeys(each.wheel for each in ACCELERATORS if each.wheel and each.wheel != wanted)
    return [*others, wanted]


def _has_wheels(extra: str, python: tuple[int, int], machine: str) -> bool:
    row = next(each for each in ACCELERATORS if each.extra == extra)
    return machine in row.machines and python <= (row.python_max or python)


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print(chosen())
        return 0
    try:
        print(*clashing(arguments[-1]))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
