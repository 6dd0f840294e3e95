"""Numbers as options of commands."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number of a range; click takes NaN for a number of any."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("NaN is no number here", param, ctx)
        return number
