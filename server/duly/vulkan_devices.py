"""Tells which devices Vulkan finds here, as lines: whether it is a GPU or a processor, and its name.

    python -P -m duly.vulkan_devices

It is a process of its own, as it loads drivers. WebGPU runs on what it finds, but for processors that it does not take,
such as Mesa's llvmpipe.
"""

import ctypes
import sys

DEVICES_MAX = 16
"""No more devices are told."""
_PROCESSOR = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
_KINDS = {0: "other", 1: "GPU", 2: "GPU", 3: "virtual GPU", _PROCESSOR: "processor"}
_PROPERTIES_BYTES = 4096
"""Room for VkPhysicalDeviceProperties, of 824 bytes."""


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),  # VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO is 1
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


class _Properties(ctypes.Structure):
    """The beginning of VkPhysicalDeviceProperties."""

    _fields_ = (
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_int),
        ("name", ctypes.c_char * 256),
    )


def main() -> int:
    vulkan = ctypes.CDLL("libvulkan.so.1")
    instance, count = ctypes.c_void_p(), ctypes.c_uint32(DEVICES_MAX)
    if error := vulkan.vkCreateInstance(ctypes.byref(_InstanceCreateInfo(type=1)), None, ctypes.byref(instance)):
        print(f"VkResult {error}", file=sys.stderr)
        return 1
    devices = (ctypes.c_void_p * DEVICES_MAX)()
    if vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices) < 0:
        return 1
    for device in devices[: count.value]:
        room = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), room)
        found = _Properties.from_buffer(room)
        print(f"{_KINDS.get(found.kind, 'other')} {found.name.decode('utf-8', 'replace')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
