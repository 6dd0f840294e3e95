"""Keeps processors out of the states of sleep that take long to wake up from."""

import os
import struct

WAKEFULNESS = "/dev/cpu_dma_latency"


def hold_wakefulness() -> int:
    """Asks Linux that no processor takes any time to wake up, until the descriptor that this returns is closed, or this
    process is gone. Raises OSError.

    Source: Documentation/power/pm_qos_interface.rst of Linux. The processors poll instead of sleeping, which costs
    power, and turbo speeds where other cores would have slept.
    """
    descriptor = os.open(WAKEFULNESS, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, struct.pack("i", 0))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
