"""Service times of the simulator: a table by model variant and batch size, times noise that a seed fixes."""

import numpy as np

from duly_load.scenario.simulate import Noise

CHUNK = 4096
"""The number of random numbers that are drawn at a time."""


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
        self._step_at_ns, self._wake_ns = round(noise.step_at_s * 1e9), noise.wake_ms * 1e6
        self._wake_after_ns = round(noise.wake_after_ms * 1e6)
        self._rng = np.random.default_rng([seed, 0x5E])
        self._hangs = hangs
        self._factors: list[float] = []
        self._wake_rng = np.random.default_rng([seed, 0x3A])
        self._ended_ns: dict[str, int] = {}
        """The end of the last batch of each lane."""

    def duration_ns(self, now_ns: int, lane: str, model: str, variant: str, batch_size: int) -> int | None:
        for hung, from_ns, to_ns in self._hangs:
            if lane == hung and from_ns <= now_ns < to_ns:
                return None
        mean_ns = self._tables[model, variant][batch_size - 1]
        if not self._factors:
            self._factors = self._draw()
        factor = self._factors.pop()
        if now_ns >= self._step_at_ns:
            factor *= self._noise.step_factor
        duration_ns = max(1, round(mean_ns * factor))
        if self._wake_ns:
            if now_ns - self._ended_ns.get(lane, 0) > self._wake_after_ns:
                duration_ns += round(self._wake_rng.exponential(self._wake_ns))
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
