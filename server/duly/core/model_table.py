"""Which models are served, in which variants, and how long they take on which lane.

A variant has a profile for each lane on which a worker has it warm. Variants come one by one with `ModelReady`. A model
goes from one lane when its worker there is gone, or altogether when it is unloaded.
"""

from collections.abc import Container, Iterable, Mapping

from duly.core.events import BatchSizesLimited, ModelReady
from duly.core.state import VariantState
from duly.core.timing.lane_speed import LaneSpeed
from duly.core.timing.profile import Profile
from duly.core.types import ModelPlan, StreamTerms
from duly.core.variants.model_state import ModelState
from duly.core.waiting import QueuedFrame


class ModelTable:
    __slots__ = ("_variants_ever", "by_name", "has_variants", "rewarmed", "variants")

    def __init__(self) -> None:
        self.by_name: dict[str, ModelState] = {}
        self.variants: list[VariantState] = []
        """The variants of all models, in the order in which they came."""
        self.has_variants = False
        """Whether any model has several variants."""
        self.rewarmed: list[VariantState] = []
        """The variants for which idle lanes are warmed."""
        self._variants_ever = 0

    def ready(self, event: ModelReady, speed: LaneSpeed) -> VariantState:
        """Adds the variant of the event on a lane of that speed, which serves it from now on, and returns it."""
        model = self.by_name.setdefault(event.model, ModelState())
        variant = model.variants.get(event.rank)
        if variant is None:
            self._variants_ever += 1
            variant = VariantState(event.model, event.variant, event.rank, event.stateful, self._variants_ever)
            model.add(variant)
            self.variants.append(variant)
        variant.profiles[event.lane] = Profile(event.samples_ns, event.any_size, speed)
        variant.warm_after_ns = event.warm_after_ns
        variant.state_layout, variant.takes_state = event.state_layout, event.takes_state
        variant.plan()
        self._changed()
        return variant

    def limited(self, event: BatchSizesLimited) -> None:
        """The variant of the event has no larger batches on that lane any more, if the lane serves it."""
        model = self.by_name.get(event.model)
        for variant in model.variants.values() if model is not None else ():
            if variant.name == event.variant and event.lane in variant.profiles:
                variant.profiles[event.lane].limit(event.size_max)
                variant.plan()

    def gone(self, name: str, lane: str) -> None:
        """The lane no longer serves the model, which must be known."""
        for variant in self.by_name[name].variants.values():
            variant.profiles.pop(lane, None)
            variant.plan()

    def unloaded(self, name: str) -> None:
        """The model, which must be known, is no longer served. None of its frames may wait."""
        for variant in self.by_name.pop(name).variants.values():
            self.variants.remove(variant)
        self._changed()

    def hands_over(self, name: str, other: str) -> bool:
        """Whether the other model goes on with the state that this one keeps of streams."""
        before, now = self.by_name.get(name), self.by_name.get(other)
        if before is None or now is None:
            return False
        layouts = {variant.state_layout for variant in before.variants.values()}
        return all(variant.takes(layout) for variant in now.variants.values() for layout in layouts)

    def refit(self, lane: str, learnt: VariantState) -> None:
        """The speed of the lane has changed. A run of `learnt` has shown it, whose own profile is fitted already."""
        for variant in self.variants:
            if variant is not learnt and lane in variant.profiles:
                variant.profiles[lane].refit()
                variant.plan()

    def longest_one_ns(self, models: Container[str]) -> int:
        """The longest planned time of a batch of one among those models."""
        return max([variant.single_plan_ns_max for variant in self.variants if variant.model in models], default=0)

    def promised_one_ns(self, name: str) -> int:
        """The planned time of a batch of one of the most accurate variant that is served, on the slowest lane and by
        the longer of its plans; 0: none is served.
        """
        model = self.by_name.get(name)
        if model is not None:
            for variant in model.variants.values():
                if variant.profiles:
                    return variant.promised_one_ns()
        return 0

    def planned_one_ns(self, name: str, rank_max: int) -> int:
        """Planned time of a batch of one on the fastest lane, in the fastest variant up to that rank; 0: none is
        served.
        """
        model = self.by_name.get(name)
        return (
            min((variant.single_plan_ns_min for variant in model.served_from(0, rank_max)), default=0) if model else 0
        )

    def planned_ns(self, name: str, lane: str, variant: str | None) -> list[int]:
        """Planned times of batches of 1, 2, ... on that lane, of that variant or, where None, of the most accurate one
        that the lane serves. Empty where it serves none.
        """
        model = self.by_name.get(name)
        for candidate in model.variants.values() if model else ():
            if lane in candidate.profiles and variant in (None, candidate.name):
                return candidate.profiles[lane].plan_ns[1:]
        return []

    def plans(self, lanes: Iterable[str], extras_ns: Mapping[str, int]) -> dict[str, ModelPlan]:
        """The plans of each model: for each variant that of its slowest lane. `lanes` are all lanes, in order;
        `extras_ns` has for each model what its frames usually take beyond usual ones.
        """
        plans = {}
        for name, model in self.by_name.items():
            served = [variant for variant in model.variants.values() if variant.profiles]
            if served:
                own = tuple(lane for lane in lanes if lane in served[0].profiles)
                ranks = tuple([variant.slowest_plan() for variant in served])
                extra_ns = extras_ns.get(name, 0)
                if extra_ns:
                    ranks = tuple(
                        [
                            tuple([plan_ns + size * extra_ns for size, plan_ns in enumerate(sizes_ns, 1)])
                            for sizes_ns in ranks
                        ]
                    )
                plans[name] = ModelPlan(name, own, ranks, served[0].promised_one_ns() + extra_ns)
        return plans

    def _changed(self) -> None:
        self.has_variants = len(self.variants) > len(self.by_name)
        self.rewarmed = [variant for variant in self.variants if variant.warm_after_ns]


def variant_for(now_ns: int, queued: QueuedFrame, model: ModelState, terms: StreamTerms) -> VariantState:
    """The variant that the control wants, or the first less accurate one that can still serve the frame in time. Where
    none can, it is the fastest that the stream accepts. Where no lane serves any of these now, it is a more accurate
    variant that is served, or else one that is not.
    """
    rank_max, due_ns = terms.variant_rank_max, queued.due_ns
    served = model.served_from(model.control.rank_for(queued.stream_class, rank_max), rank_max)
    served = served or model.served_from(0, rank_max)
    in_time = (variant for variant in served if due_ns >= now_ns + variant.single_plan_ns_min)
    known = served or [variant for rank, variant in model.variants.items() if rank <= rank_max]
    return next(in_time, None) or next(reversed(known or list(model.variants.values())))


def rescuer(now_ns: int, queued: QueuedFrame, model: ModelState, terms: StreamTerms) -> VariantState | None:
    """The most accurate variant that can still serve a frame in time after its own variant can't; None: none can."""
    if model.only is not None:
        return None
    faster = model.served_from(queued.rank + 1, terms.variant_rank_max)
    return next((variant for variant in faster if queued.due_ns >= now_ns + variant.single_plan_ns_min), None)
