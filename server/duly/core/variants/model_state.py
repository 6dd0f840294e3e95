"""What is kept of each model: its variants, and the control that decides which of them its streams are for."""

from duly.core.state import VariantState
from duly.core.types import StreamClass
from duly.core.variants.ladder import VariantControl


class ModelState:
    __slots__ = ("arrived", "control", "missed", "on_time", "only", "variants")

    def __init__(self) -> None:
        self.variants: dict[int, VariantState] = {}
        """Keys are ranks, the most accurate first."""
        self.only: VariantState | None = None
        """The variant of a model that has only one; None: it has several, or none yet."""
        self.control = VariantControl(1)
        self.on_time = 0
        """Frames since the last tick of the control; so are `missed` and `arrived`."""
        self.missed = 0
        self.arrived = dict.fromkeys(StreamClass, 0)

    def add(self, variant: VariantState) -> None:
        self.variants[variant.rank] = variant
        self.variants = dict(sorted(self.variants.items()))
        self.only = variant if len(self.variants) == 1 else None
        self.control = VariantControl(max(self.variants) + 1)

    def served_from(self, rank: int, rank_max: int) -> list[VariantState]:
        """The variants from `rank` to `rank_max` that a lane serves now, the most accurate first."""
        return [
            variant for at, variant in self.variants.items() if rank <= at <= rank_max and variant.single_plan_ns_min
        ]
