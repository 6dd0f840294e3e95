"""Guards that need no fitting, for inputs that have none: BLANK and FROZEN, each where no clean frame is either.

Rows of a table may truly repeat, and what a sound card gates is truly silent. So clean frames decide, by the code that
judges frames while serving.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from duly.models.guards import GUARDS_MAX, NAME_CHARS_MAX, Blank, Frozen, InputGuard, name_of
from duly.models.spec import ModelConfig, Signature, TensorSpec
from duly.worker.guards import GuardPlan, GuardWatch, input_watch
from duly_learn.frames.frame import Encoded, LearnFrame
from duly_learn.guards.spoilt import NotSpoilt, array_of


@dataclass(frozen=True, slots=True)
class Plain:
    """What was decided."""

    guards: Sequence[InputGuard]
    said: Sequence[str]
    """Each that is written or is not, in a sentence."""


def plain_guards(config: ModelConfig, signature: Signature, clean: Sequence[LearnFrame]) -> Plain:
    """Returns BLANK and FROZEN for each input that has no such guard and no clean frame that it would flag. There is
    room for one guard besides: that of a detector.
    """
    guards: list[InputGuard] = []
    said: list[str] = []
    several = len(signature.inputs) > 1
    names = {name_of(guard) for guard in config.guards}
    for position, spec in enumerate(signature.inputs):
        there = {guard.kind for guard in config.guards if getattr(guard, "input", None) in (spec.name, "")}
        for kind in (Blank, Frozen):
            guard = _named(kind, spec, position, several)
            if guard.kind in there or name_of(guard) in names:
                continue
            why_not = _why_not(guard, spec, clean)
            if not why_not and len(config.guards) + len(guards) + 1 >= GUARDS_MAX:
                why_not = f"a model has at most {GUARDS_MAX} guards"
            if why_not:
                said.append(f"no {guard.kind} guard of input '{spec.name}': {why_not}")
            else:
                said.append(
                    f"a {guard.kind} guard of input '{spec.name}', which flags none of {len(clean)} clean frames"
                )
                guards.append(guard)
    return Plain(guards, said)


def _named(kind: type[Blank] | type[Frozen], spec: TensorSpec, position: int, several: bool) -> Blank | Frozen:
    word = "blank" if kind is Blank else "frozen"
    if not several:
        return kind.model_validate({"kind": word.upper()})
    plain = re.sub("[^a-z0-9_-]", "-", spec.name.lower())
    name = f"{word}-{plain}" if len(plain) + len(word) < NAME_CHARS_MAX else f"{word}-{position}"
    return kind.model_validate({"kind": word.upper(), "input": spec.name, "name": name})


def _why_not(guard: Blank | Frozen, spec: TensorSpec, clean: Sequence[LearnFrame]) -> str:
    """Why the input should not be guarded so; empty: it should."""
    if isinstance(guard, Blank) and (spec.is_text or spec.shape in ((), (1,))):
        return "a frame of it is text, or one number"
    watch = input_watch(spec, [(0, guard)])
    judged = GuardWatch(GuardPlan((name_of(guard),), (watch,), ()))
    numbers: dict[str, int] = {}
    flagged = 0
    for frame in clean:
        value = frame.inputs[spec.name]
        try:
            array = array_of(value, spec)
        except NotSpoilt as error:
            return f"whether clean frames would be flagged is not known, as {error}"
        payload = value.data if isinstance(value, Encoded) else array.tobytes()
        judged.begin()
        look = judged.at(0, numbers.setdefault(frame.stream, len(numbers) + 1), 0, memoryview(payload))
        if look is not None:
            look(array)
        flagged += bool(judged.found)
    if not flagged:
        return ""
    found = "repeat the ones before them" if isinstance(guard, Frozen) else "are blank"
    return f"{flagged} of {len(clean)} clean frames {found}"
