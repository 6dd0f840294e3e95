"""The most memory that the server and its workers can take, whatever clients send: the sum of what is bounded.

It is a ceiling and no forecast. Shared memory and messages are only taken as far as they are filled, and a server that
never meets its limits takes a small part of this. It says what a machine or a control group must have for the limits to
be held by the server rather than by the kernel's OOM killer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from duly.freed_memory import KEPT_BYTES_MAX
from duly.models.spec import Signature
from duly.runtime.shadow import HELD_BYTES_MAX
from duly.streams.half_messages import ALLOWED_BYTES
from duly.streams.memory import OUTCOME_BYTES, OUTCOMES_MIN, OUTCOMES_PART
from duly.worker.channel import SLOTS
from duly.worker.slot_layout import layout

PROCESS_BYTES = (128 << 20) + KEPT_BYTES_MAX
"""The serving process takes less than this by itself, with its libraries and what it keeps of memory that was freed."""


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """What one worker may take."""

    signature: Signature
    private_bytes: int
    """0: it has no limit of its own."""

    @property
    def shared_bytes(self) -> int:
        batch_max = max(self.signature.batch_sizes)
        inputs = layout([spec.bytes_max for spec in self.signature.inputs], batch_max)[1]
        outputs = layout([spec.bytes_max for spec in self.signature.outputs], batch_max)[1]
        return SLOTS * (inputs + outputs)


@dataclass(frozen=True, slots=True)
class MemoryCeiling:
    payloads: int
    """Payloads of frames that are not answered."""
    results: int
    """Results and outcomes that are not written."""
    messages: int
    """Messages whose frames wait to be taken, and those that are not complete yet."""
    shared: int
    """The regions in which batches lie."""
    workers: int
    """Private memory of the workers that have a limit."""
    unlimited_workers: int
    """How many workers have no limit of their own, as on accelerators."""
    local: int = 0
    """What is shared with clients on this machine."""
    samples: int = 0
    """Frames that wait to be written, and the process that writes them."""
    learning: int = 0
    """The process that learns, what it starts to train, and the workers on which it tries what came of that."""
    trials: int = HELD_BYTES_MAX
    """Copies of frames on which new versions are tried."""

    @property
    def total(self) -> int:
        parts = self.payloads + self.results + self.messages + self.shared + self.workers + self.local
        parts += self.samples + self.learning + self.trials
        return PROCESS_BYTES + parts


def memory_ceiling(
    payload_bytes_max: int,
    message_bytes_max: int,
    streams_max: int,
    workers: Iterable[WorkerMemory],
    local_bytes_max: int = 0,
    samples_bytes_max: int = 0,
    learning_bytes_max: int = 0,
) -> MemoryCeiling:
    """Adds up what the limits allow. `payload_bytes_max` bounds the payloads of all streams, and as much again their
    results, the messages that wait and those that are not complete. `local_bytes_max`: what may be shared with clients.
    `samples_bytes_max`: for frames that are kept, with the process that writes them.
    `learning_bytes_max`: for the process that learns, with all that it starts.
    """
    workers = tuple(workers)
    return MemoryCeiling(
        payloads=payload_bytes_max,
        results=payload_bytes_max + max(payload_bytes_max // OUTCOMES_PART, OUTCOMES_MIN * OUTCOME_BYTES),
        messages=payload_bytes_max + min(max(payload_bytes_max, ALLOWED_BYTES), streams_max * message_bytes_max),
        shared=sum(worker.shared_bytes for worker in workers),
        workers=sum(worker.private_bytes for worker in workers),
        unlimited_workers=sum(not worker.private_bytes for worker in workers),
        local=local_bytes_max,
        samples=samples_bytes_max,
        learning=learning_bytes_max,
    )
