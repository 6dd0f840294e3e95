"""The messages of the local transport, as docs/local.md explains them: kinds, and structs of a fixed layout.

All numbers are little-endian. A message is one packet of a SEQPACKET socket, which the kernel has copied before it is
looked at, so that nothing in it changes while it is read. What lies in shared memory is the data of tensors alone.
"""

from struct import Struct

VERSION = 1
"""The version of this layout, in OPEN and OPENED."""

OPEN, FRAMES, REQUEST, FINISH = range(1, 5)
"""What clients send."""
OPENED, OUTCOMES, RESPONSE, OUTPUTS, PART, END = range(16, 22)
"""What the server sends."""

MESSAGE_BYTES_MAX = 208_000
"""The longest local message in either direction; a longer one is MESSAGE_MALFORMED. Linux refuses SEQPACKET messages
above the socket's send buffer, 212,992 bytes by default."""
SEND_BUFFER_BYTES = 212_992
"""What the send buffers of both ends have at least, where the system's default is less."""
FRAMES_MAX = 64
"""How many frames one message may have, as many as are taken in one turn. One that has more is MESSAGE_MALFORMED."""
EXTENTS = 8
"""Room for the extents of a tensor."""
ENCODED = 128
"""Kinds of inputs from here on are encoded formats, ENCODED plus the number of duly.v1.EncodedFormat. Below it they are
those of duly.v1.DataType; 0: the model's own."""
MUST_RUN = 1
"""The flag of a frame that newer ones never supersede."""
ASSEMBLED = 1
"""The flag of OUTCOMES whose offsets count in what came in the PARTs before, one after the other."""

OPEN_HEAD = Struct(
    "<BBHIQ"
)  # kind, version, bytes of the token, 0, bytes of memory for frames (0: the server's choice)
FRAMES_HEAD = Struct("<BxHI")  # kind, frames, 0
FRAME = Struct("<QqqHHI")  # id, capture time, budget, flags, inputs, 0
TENSOR = Struct(f"<QIHBB{EXTENTS}i")  # offset, bytes, index of the input or output, kind, dimensions, extents
TENSOR_PLACE = Struct("<Q")
TENSOR_REST = Struct(TENSOR.format.replace("Q", ""))
"""TENSOR in two parts: where it lies, and what it is, which is the same for most frames of a stream."""
FRAME_OF_ONE = Struct(f"{FRAME.format}Q{TENSOR_REST.size}s")
"""A frame with one input, of which is left as it is what it is."""
READ = Struct("=Q")
"""What the client writes to its eventfd: how many bytes of outcomes it has read since it last did."""

OPENED_HEAD = Struct("<BBxxIQQ")  # kind, version, bytes of the StreamOpened, bytes of both areas: frames, outcomes
OUTCOMES_HEAD = Struct("<BxHIQ")  # kind, outcomes, flags, position behind what belongs to them
OUTCOME = Struct("<Q8qBxHHHHHHxxIxxxx")
"""Id, slack, received (unix), sent, dispatched, started, finished, capture to receipt, uncertainty, status, batch size,
outputs, the bytes of what follows them: version, variant, reason, and an Outcome of duly.v1 that has only `fused`,
where the frame was joined with others, and `guards`, where some found something; and the planned delay in microseconds,
which only streams of models with action chunks have."""
DELAY_US_MAX = (1 << 32) - 1
"""A planned delay that is longer, more than an hour, is told as this."""
ALIVE = Struct("=Q")
"""The head of the memory for outcomes: not 0 as long as what lies there holds."""
HEAD_BYTES = 64
PART_WHOLE = Struct("<BxxxIQQ")  # kind, bytes, offset, position behind it
TEXT_ALIGNMENT = 8
"""The texts of an outcome are followed by zeros up to a multiple of this."""
