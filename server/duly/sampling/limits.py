"""How much a folder of samples may take, as the process that writes it is told."""

from dataclasses import asdict, dataclass
from typing import Any, Self

MEMORY_BYTES_MAX = 2 << 30
"""The memory of the process that writes, beyond which it ends, and is started again."""
SEGMENT_FRAMES_MAX = 256
SEGMENT_BYTES_MAX = 8 << 20
"""A segment is written when it has SEGMENT_FRAMES_MAX frames, or so many bytes, or has waited for long enough."""
FRAMES_SECONDS, LABELLED_SECONDS = 2.0, 0.2
"""So long frames, and frames with labels, wait for others to be written with."""
SEGMENTS_MAX = 20_000
"""Of more segments of a kind the oldest are removed."""
FRAMES_PART, LABELLED_PART, OLD_PART, JOB_PART = 5 / 16, 5 / 16, 1 / 16, 1 / 4
"""Parts of what the store of a model may take on the disk: frames, those with labels, old ones that the learner keeps
(which are there twice while it writes them anew), and those of an attempt that is under way."""
DROPPED_FOR = (
    "queue_full",  # the writer is slower than frames come
    "writer_down",  # it has ended, and is started again
    "streams",  # there are samples of as many streams as there may be, all of which go on
    "full",  # samples of streams that go on take all the bytes that there may be
    "rate",  # more frames of a model that learns than are kept a second
    "too_large",
    "read_apart",  # its picture was decoded beside the lanes, and what the client sent is gone
    "video",  # an access unit shows nothing without those before it
    "client_gone",  # a part of it lay in memory of a client that has gone meanwhile
    "fault",  # looking at it failed, by a fault of the server's own
    "misfit",  # what came of it is no tensor of the model's
    "no_space",
    "not_writable",
    "folder_gone",
    "io_error",
)
"""Why frames that were to be kept are not."""
STORE_FRAMES_MAX = 500_000
"""The store of one model has no more frames: the writer remembers where each of them is, some 100 bytes a frame."""


@dataclass(frozen=True, slots=True)
class DrawnLimits:
    """Of samples that are drawn from streams, all models together."""

    bytes_max: int
    groups_max: int
    """How many groups there may be on the disk, which are streams as a rule."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Of the store of one model that learns."""

    bytes_max: int
    """Frames have FRAMES_PART of it, frames with labels LABELLED_PART, and what the learner copies of them the rest."""
    age_s_max: float
    """Segments that were written longer ago are removed."""
    frames_max: int = STORE_FRAMES_MAX


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """What the writer is told first."""

    sandbox: str
    drawn_folder: str = ""
    """Empty: no samples are drawn."""
    drawn: DrawnLimits = DrawnLimits(0, 0)
    store_folder: str = ""
    """Empty: no model learns."""
    store: StoreLimits = StoreLimits(0, 0)

    @property
    def folders(self) -> list[str]:
        """What is written to."""
        return [folder for folder in (self.drawn_folder, self.store_folder) if folder]

    def as_body(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """Raises TypeError or KeyError where it was made by nothing of ours."""
        return cls(**body | {"drawn": DrawnLimits(**body["drawn"]), "store": StoreLimits(**body["store"])})
