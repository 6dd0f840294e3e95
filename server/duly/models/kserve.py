"""What a model's author says of it to clients of the KServe protocol, which has words that duly.v1 has not."""

from typing import Annotated

from pydantic import Field

from duly.core.types import StreamClass
from duly.models.strict import Strict

PRIORITY_LEVELS_MAX = 1 << 16
"""No model has more levels of priority."""


ROWS_MAX = 1024
"""A request has no more rows, each of which is a frame; one with more is INVALID."""


class KServe(Strict):
    """What clients of the KServe protocol are told of a model and may ask for."""

    max_batch_size: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] | None = None
    """How many rows a request may have at most, each of which is a frame; 0: requests have no batch dimension. None:
    as many as the largest batch has frames. ROWS_MAX and the server's `frames_in_flight_max` bound it as well."""
    priority_levels: Annotated[int, Field(ge=0, le=PRIORITY_LEVELS_MAX)] = 0
    """Requests have a priority of 1, the highest, up to this number; 0: their priorities have no meaning."""


def class_of_priority(priority: int, levels: int) -> StreamClass | None:
    """Returns the class of a request's priority where the model has so many levels: the upper half is STANDARD, the
    middle one included, and the rest BEST_EFFORT. None is CRITICAL, which is for streams that state a period. None: the
    request states no priority, or one that has no meaning, so that it has the model's default class.
    """
    if not 1 <= priority <= levels:
        return None
    return StreamClass.STANDARD if 2 * priority <= levels + 1 else StreamClass.BEST_EFFORT
