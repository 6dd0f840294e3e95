"""Which streams belong to the canary: those whose keys fall into the share, by a hash. So a stream stays where it is
for as long as the trial lasts, over reconnections too, and each trial draws others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

_BITS = 53
"""As many as a float holds, so that two keys are only at the same place where their hashes are equal."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The streams of a share of all keys."""

    salt: str
    """What is different for each trial: NAME/VERSION of the candidate."""
    share: float
    """0 to 1."""
    besides: str = ""
    """The key of a stream that belongs to it wherever it falls; empty: none does."""

    def has(self, key: str) -> bool:
        """Whether the stream with that key belongs to it."""
        return _place(self.salt, key) < self.share or (key == self.besides and bool(key))


def drawn(salt: str, share: float, keys: Iterable[str]) -> Canary:
    """Returns a canary of that share. Where it has none of the streams that are open, as may well be with a few, the
    one that is nearest to it belongs to it besides; of streams that come later the share stays what it is.
    """
    nearest = min(keys, key=lambda key: _place(salt, key), default="")
    return Canary(salt, share, nearest)


def _place(salt: str, key: str) -> float:
    """A number from 0 to below 1 that the key alone decides."""
    digest = blake2b(key.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest()).digest()
    return (int.from_bytes(digest, "big") >> 64 - _BITS) / 2.0**_BITS
