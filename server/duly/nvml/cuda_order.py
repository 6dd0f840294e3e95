"""Tells which GPUs CUDA counts here, in its own order: the UUID of each as a line of 32 hexadecimal digits.

    python -P -m duly.nvml.cuda_order

It is a process of its own, since drivers may hang, and one that has begun with CUDA holds GPUs. CUDA_VISIBLE_DEVICES
(numbers, UUIDs, parts of MIG), CUDA_DEVICE_ORDER and what a container lets it see are in the answer, as CUDA itself
looks at them. Where a part of MIG is meant, it is the part's UUID (cuDeviceGetUuid_v2, CUDA 11.4).
"""

import ctypes
import sys

GPUS_MAX = 64
"""No more GPUs are told."""


def main() -> int:
    cuda = ctypes.CDLL("libcuda.so.1")
    uuid_of = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    count, device, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if error := cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        print(f"CUDA error {error}", file=sys.stderr)
        return 1
    for number in range(min(count.value, GPUS_MAX)):
        if error := cuda.cuDeviceGet(ctypes.byref(device), number) or uuid_of(ctypes.byref(uuid), device):
            print(f"CUDA error {error} of device {number}", file=sys.stderr)
            return 1
        print(bytes(uuid).hex())
    return 0


if __name__ == "__main__":
    sys.exit(main())
