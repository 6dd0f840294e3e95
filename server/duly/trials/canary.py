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

    def has(self, key: str) -> bool:
        """Whether the stream with that key belongs to it."""
        return _place(self.salt, key) < self.share


def drawn(salt: str, share: float, keys: Iterable[str]) -> Canary:
    """Returns a canary of that share, or of as much more as it takes to have one of the streams that are open: with a
    few streams a share of them may well be none.
    """
    places = [_place(salt, key) for key in keys]
    return Canary(salt, max(share, min(places) + 2.0**-_BITS) if places else share)


def _place(salt: str, key: str) -> float:
    """A number from 0 to below 1 that the key alone decides."""
    digest = blake2b(key.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest()).digest()
    return (int.from_bytes(digest, "big") >> 64 - _BITS) / 2.0**_BITS
