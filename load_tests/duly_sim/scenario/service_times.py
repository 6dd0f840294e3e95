"""Service times of the simulator: a table by model variant and batch size, times noise that a seed fixes."""

from dataclasses import dataclass

import numpy as np

CHUNK = 4096
"""Noise is drawn so many numbers at a time."""

T4_MS = {1: 3.00, 4: 5.75, 8: 9.00, 16: 15.11, 32: 28.35}
A100_MS = {1: 2.13, 4: 2.76, 8: 3.90, 16: 5.79, 32: 11.19}
V100_MS = {1: 2.84, 4: 4.19, 8: 5.98, 16: 9.27, 32: 15.66}
"""ResNet50, ONNX Runtime with TensorRT FP16 under Triton, published by NVIDIA; ms by batch size."""


def times_ns(table_ms: dict[int, float], batch_max: int) -> tuple[int, ...]:
    """Mean times of batches of 1, 2, ... `batch_max`, on straight lines between the sizes of the table.

    Raises ValueError where the table does not hold batch size 1 or ends before `batch_max`.
    """
    if 1 not in table_ms or max(table_ms) < batch_max:
        raise ValueError(f"a table should hold sizes 1 to {batch_max}, got {sorted(table_ms)}")
    sizes = sorted(table_ms)
    filled = np.interp(np.arange(1, batch_max + 1), sizes, [table_ms[size] for size in sizes])
    return tuple(round(time_ms * 1e6) for time_ms in filled)


@dataclass(frozen=True, slots=True)
class Noise:
    """How service times scatter round the table."""

    cv: float = 0.0
    """Lognormal with mean 1 and this coefficient of variation."""
    bound: float = 0.0
    """If not 0: uniform within 1 - bound ... 1 + bound instead."""
    spike_probability: float = 0.0
    spike_factor: float = 5.0
    step_at_ns: int = 0
    step_factor: float = 1.0
    """From `step_at_ns` on every time is multiplied by this."""
    wake_ns: float = 0.0
    """What a batch takes longer on a lane that was idle: the mean of an exponential distribution."""
    wake_after_ns: int = 0
    """A lane was idle that ran nothing for longer than that."""


class TableService:
    """Batch times out of tables. `hangs`: (lane, from_ns, to_ns) within which a batch that starts there never ends."""

    def __init__(
        self,
        tables: dict[tuple[str, str], tuple[int, ...]],
        noise: Noise,
        seed: int,
        hangs: tuple[tuple[str, int, int], ...] = (),
    ) -> None:
        """`tables`: by model version and variant, mean ns of batches of 1, 2, ..."""
        self._tables = tables
        self._noise = noise
        self._rng = np.random.default_rng([seed, 0x5E])
        self._hangs = hangs
        self._factors: list[float] = []
        self._wake_rng = np.random.default_rng([seed, 0x3A])
        self._ended_ns: dict[str, int] = {}
        """Of the last batch, by lane."""

    def duration_ns(self, now_ns: int, lane: str, model: str, variant: str, batch_size: int) -> int | None:
        for hung, from_ns, to_ns in self._hangs:
            if lane == hung and from_ns <= now_ns < to_ns:
                return None
        mean_ns = self._tables[model, variant][batch_size - 1]
        if not self._factors:
            self._factors = self._draw()
        factor = self._factors.pop()
        if now_ns >= self._noise.step_at_ns:
            factor *= self._noise.step_factor
        duration_ns = max(1, round(mean_ns * factor))
        if self._noise.wake_ns:
            if now_ns - self._ended_ns.get(lane, 0) > self._noise.wake_after_ns:
                duration_ns += round(self._wake_rng.exponential(self._noise.wake_ns))
            self._ended_ns[lane] = now_ns + duration_ns
        return duration_ns

    def warm_up(self, model: str, variant: str, sizes: list[int], runs: int = 30) -> dict[int, tuple[int, ...]]:
        """Samples as a worker measures them before it serves, by batch size; without spikes and steps."""
        table = self._tables[model, variant]
        calm = Noise(cv=self._noise.cv, bound=self._noise.bound)
        return {
            size: tuple(max(1, round(table[size - 1] * factor)) for factor in _factors(self._rng, calm, runs))
            for size in sizes
        }

    def _draw(self) -> list[float]:
        return _factors(self._rng, self._noise, CHUNK)


def _factors(rng: np.random.Generator, noise: Noise, count: int) -> list[float]:
    if noise.bound:
        factors = rng.uniform(1 - noise.bound, 1 + noise.bound, count)
    elif noise.cv:
        sigma2 = np.log(1 + noise.cv**2)
        factors = rng.lognormal(-sigma2 / 2, np.sqrt(sigma2), count)
    else:
        factors = np.ones(count)
    if noise.spike_probability:
        factors = np.where(rng.random(count) < noise.spike_probability, factors * noise.spike_factor, factors)
    return [float(factor) for factor in factors]
