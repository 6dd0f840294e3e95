"""The steps that there are, by name, in the order in which they are tried."""

from collections.abc import Sequence
from dataclasses import replace

from duly_learn.optimize.cleanup import Cleanup
from duly_learn.optimize.distillation import Distillation
from duly_learn.optimize.dynamic_int8 import DynamicInt8
from duly_learn.optimize.half import Half
from duly_learn.optimize.merging import Merging
from duly_learn.optimize.pruning import Pruning
from duly_learn.optimize.static_int8 import StaticInt8
from duly_learn.optimize.step import Step

STEPS: Sequence[Step] = (Merging(), Cleanup(), Half(), StaticInt8(), DynamicInt8(), Pruning(), Distillation())


def with_bounds(steps: Sequence[Step], share: float, seconds: float) -> list[Step]:
    """Returns the steps with what those that make smaller graphs leave of the work, and how long training may take."""
    bounded: list[Step] = []
    for step in steps:
        if isinstance(step, Pruning):
            step = replace(step, share=share)
        elif isinstance(step, Distillation):
            step = replace(step, share=share, seconds=seconds)
        bounded.append(step)
    return bounded
