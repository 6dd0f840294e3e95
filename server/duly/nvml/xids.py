"""What the numbers mean with which NVIDIA's driver reports errors of a GPU (Xid), as far as a lane's fate hangs on it.

By NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), column "Resolution Bucket
(Immediate Action)":

- RESET_GPU, RESTART_BM, RESTART_VM and the workflows that end in a reset: nothing that runs on the GPU can go on. These
  are `DEVICE`.
- RESTART_APP and IGNORE: a program has failed, not the GPU, or nothing has. The program that failed may be a worker,
  which says so itself; or that of somebody else. So 13, 31, 43 and 45 take no lane down, and neither do 63 (a row of
  memory will be remapped), 92 (many errors of one bit, which are corrected) and 94 (an error of memory that was
  contained: "all other applications running at the time are unaffected").

What stands in the catalogue by subcodes alone (144 to 150, of NVLink), and what is newer than it, is judged by the
recovery action that the driver asks for (`health`), and so is 154, which says that this has changed. 109 is RESET_GPU
in the catalogue and an application's error to NVIDIA's own device plugin for Kubernetes; here the recovery action
decides, too.
"""

DEVICE = {
    46: "GPU stopped processing",
    48: "double bit ECC error",
    54: "auxiliary power is not connected to the GPU board",
    62: "internal micro-controller halt",
    64: "GPU memory remapping failure",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    95: "uncontained memory error",
    110: "security fault",
    119: "GSP RPC timeout",
    120: "GSP error",
    136: "link training failed",
    140: "unrecovered ECC error",
    143: "GPU initialization error",
    151: "key rotation error",
    156: "resource retirement",
    158: "GPU fatal timeout",
    167: "PCIe fatal timeout",
    169: "internal micro-controller halt",
}
"""Those of the device, in words."""

_OTHERS = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    32: "invalid or corrupted push buffer stream",
    43: "GPU stopped processing for a program's fault",
    45: "cleanup after other errors",
    63: "GPU memory remapping event",
    68: "video decoder exception",
    69: "graphics engine class error",
    92: "high single-bit ECC error rate",
    94: "contained memory error",
    109: "context switch timeout",
    154: "the recovery action has changed",
}


def told(xid: int) -> str:
    """Returns an Xid in words."""
    words = DEVICE.get(xid) or _OTHERS.get(xid)
    return f"Xid {xid}: {words}" if words else f"Xid {xid}"
