"""How much memory and disk a learner may take, and for how long it keeps frames."""

from dataclasses import dataclass

from duly.sampling.limits import JOB_PART, OLD_PART

MEMORY_BYTES_MAX = 4 << 30
STORE_BYTES_MAX = 1 << 30
AGE_SECONDS_MAX = 30 * 86_400.0
_OF_MEMORY = 1 / 8
"""The frames of an attempt take no more than this part of the memory of whoever has them: they lie there as they are,
as copies on their way to a worker or a file, and as what is made of them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server's settings allow its learner."""

    memory_bytes_max: int = MEMORY_BYTES_MAX
    """`learn_memory_bytes_max`."""
    store_bytes_max: int = STORE_BYTES_MAX
    """`learn_bytes_max`, of each model."""
    age_s_max: float = AGE_SECONDS_MAX
    """`learn_age_s_max`."""

    @property
    def old_bytes_max(self) -> int:
        """What the old frames of a model may take."""
        return int(self.store_bytes_max * OLD_PART)

    def attempt_bytes_max(self, train_bytes_max: int) -> int:
        """What the frames of an attempt may take, in memory and on the disk."""
        memory = min(self.memory_bytes_max, train_bytes_max)
        return int(min(self.store_bytes_max * JOB_PART, memory * _OF_MEMORY))
