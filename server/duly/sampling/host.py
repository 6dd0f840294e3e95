"""Sampling as the server has it: put together from its settings, begun and ended with it."""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial

from duly.config import ServerConfig
from duly.metrics import SamplingCounts
from duly.runtime.catalogue import Catalogue
from duly.runtime.driver import Driver
from duly.runtime.samplers import periodically
from duly.runtime.tasks import watch_over
from duly.runtime.trials import Trials
from duly.sampling.feedback import FeedbackDesk
from duly.sampling.labels import ACTIVE
from duly.sampling.limits import DROPPED_FOR, MEMORY_BYTES_MAX, DrawnLimits, StoreLimits, WriterSettings
from duly.sampling.link import QUEUE_BYTES_MAX, WriterLink
from duly.sampling.sampler import Drawing, Learned, Sampler
from duly.sampling.wire import Joined

LOOK_SECONDS = 1.0
"""How often it is looked which streams have closed."""
NAMES_BYTES_MAX = 256 << 10
"""Labels that name classes are handed over with so many bytes of names at most; of further models they are INVALID."""


class Sampling:
    """What is kept of frames. Where neither `sample` nor `learn` is set it does nothing, and frames do not pass it."""

    def __init__(self, config: ServerConfig, driver: Driver, catalogue: Catalogue) -> None:
        self._driver = driver
        self._catalogue = catalogue
        self._learns = config.learn is not None
        self._per_s_max = config.learn_frames_per_s_max
        self._tasks: list[asyncio.Task[None]] = []
        self._link: WriterLink | None = None
        self.sampler: Sampler | None = None
        self.desk: FeedbackDesk | None = None
        """What takes labels; None: no frames are kept that they could be for."""
        if config.sample is None and config.learn is None:
            return
        settings = WriterSettings(
            config.sandbox,
            str(config.sample.absolute()) if config.sample is not None else "",
            DrawnLimits(config.sample_bytes_max, config.sample_streams_max),
            str(config.learn.absolute()) if config.learn is not None else "",
            StoreLimits(config.learn_bytes_max, config.learn_age_s_max),
        )
        drawing = None
        if config.sample is not None:
            seed = int.from_bytes(os.urandom(8), "little")  # nobody can tell which frames are kept
            streams_max, frames, run_frames = config.sample_streams_max, config.sample_frames, config.sample_run_frames
            drawing = Drawing(config.sample_models, streams_max, frames, run_frames, seed)
        link = self._link = WriterLink(settings, lambda: self.sampler.living() if self.sampler is not None else {})
        link.counts.dropped.update(dict.fromkeys(DROPPED_FOR, 0))  # so that the first of each is a rise like any other
        link.counts.labels.update({status.name: 0 for status in Joined})
        self.sampler = Sampler(link, driver.clock, driver.sink, drawing, self._learned if self._learns else None)
        self.desk = FeedbackDesk(link, driver.clock, link.counts.labels, partial(class_names, catalogue))

    @property
    def bytes_max(self) -> int:
        """The most memory that it takes, here and in the process that writes."""
        return QUEUE_BYTES_MAX + MEMORY_BYTES_MAX if self._link is not None else 0

    @property
    def counts(self) -> SamplingCounts:
        """What was kept since the server's start; without sampling nothing."""
        return self._link.counts if self._link is not None else SamplingCounts()

    def tell_trials(self, trials: Trials) -> None:
        """Has the trials told what labels say of the answers that they want to know about."""
        if self._link is not None:
            self._link.judges_labels = trials.judges_labels
            self._link.labelled = trials.labelled

    def start(self) -> None:
        """Looks at frames from now on."""
        if self._link is None or self.sampler is None:
            return
        self._driver.add_tap(self.sampler.take)
        look = partial(periodically, self.sampler.look, LOOK_SECONDS)
        self._tasks = [
            watch_over("the process that writes samples", self._link.run),
            watch_over("streams that are sampled", look),
        ]

    async def close(self) -> None:
        """Has written what was kept, and returns when nothing of it runs any more."""
        if self._link is not None and self._tasks:
            writer, look = self._tasks
            look.cancel()
            await self._link.close(writer)

    def _learned(self, model: str) -> Learned | None:
        name, _, version = model.partition("/")
        served = self._catalogue.get(name, version)
        learning = served.version.config.learning if served is not None else None
        return Learned(self._per_s_max, learning.label) if learning is not None and learning.on else None


def class_names(catalogue: Catalogue, may_know: Callable[[str], bool]) -> dict[str, dict[str, Sequence[str]]]:
    """Returns what the classes of the models that are served are called, as `labels.ClassNames` has it: the active
    version's names, and those of versions that have others. No more than NAMES_BYTES_MAX of them.
    """
    names: dict[str, dict[str, Sequence[str]]] = {}
    left = NAMES_BYTES_MAX
    for name in filter(may_know, catalogue.names()):
        active = catalogue.active(name)
        usual = active.version.labels if active is not None else ()
        others = {each.version.version: each.version.labels for each in catalogue.versions(name)}
        of_name = {ACTIVE: usual} | {number: labels for number, labels in others.items() if labels != usual}
        for number, labels in of_name.items():
            size_bytes = sum(len(label.encode()) + 4 for label in labels)
            if labels and size_bytes <= left:
                names.setdefault(name, {})[number] = labels
                left -= size_bytes
    return names
