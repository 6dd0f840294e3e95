"""Fusion groups: streams of one principal that each give one input of a model, and whose frames run together.

A group is there as long as it has a member, and its first one says for which model it is and how frames are joined. The
scheduler joins them (`core/fusion`). Here is who may be a member, and that a group is told what its stream is told.
"""

from typing import Protocol

import structlog

from duly.core.events import Advice
from duly.core.fusion.terms import combined
from duly.core.types import Fusion, FusionWait, StreamClass, StreamTerms
from duly.models.spec import Signature
from duly.runtime.catalogue import LoadedVersion
from duly.runtime.driver import Driver
from duly.runtime.outcome import Outcome
from duly.streams.errors import InvalidTerms
from duly.streams.terms import FusionAsked, StreamRequest, signature_of

TOLERANCE_NS_MAX = 10_000_000_000
"""The largest tolerance of a fusion group; a larger one is INVALID_OPEN. Frames that far apart show two scenes."""
GROUP_NAME_BYTES_MAX = 128
"""A fusion group with a longer name is refused: INVALID_OPEN."""

_log = structlog.get_logger("duly.stream")


class InputTaken(InvalidTerms):
    """Another stream of the group gives the input."""


class Member(Protocol):
    """A stream, as far as its group is concerned."""

    asked: StreamRequest
    terms: StreamTerms
    served: LoadedVersion
    fusion: "FusionGroup | None"

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None: ...

    def fail(self) -> None: ...


def one_input(served: LoadedVersion, name: str) -> Signature:
    """Returns what a frame has that gives one input of the version. Raises InvalidTerms where it has no such input, or
    no other.
    """
    signature = signature_of(served)
    names = [spec.name for spec in signature.inputs]
    if len(names) == 1:
        text = f": model {served.version.name!r} takes one input, {names[0]!r}, which has no partner; leave it out"
        raise InvalidTerms("fusion", text)
    if name not in names:
        raise InvalidTerms("fusion.input", f": there is no input {name!r}; the model takes {_listed(names)}")
    return signature.model_copy(update={"inputs": (signature.inputs[names.index(name)],)})


class FusionGroup:
    """A group with at least one member. It is the runtime's Sink for the stream of its joint frames."""

    def __init__(self, first: Member, asked: FusionAsked, groups: "FusionGroups", driver: Driver) -> None:
        self.asked = asked
        """As its first member asked; only the name of the input differs between members."""
        self.model = first.asked.model
        self.version = first.asked.version
        """As asked; empty: the active one."""
        self.principal = first.terms.principal
        self.inputs = tuple(spec.name for spec in signature_of(first.served).inputs)
        self.members: dict[str, Member] = {}
        """By the name of the input that each gives."""
        self.stream_class = first.terms.stream_class
        """That of its most critical member."""
        self.stream_id = driver.open_group(self)
        self._groups = groups
        self._driver = driver

    def missing(self) -> list[str]:
        """Names of the inputs that no stream gives."""
        return [name for name in self.inputs if name not in self.members]

    def check_inputs(self, served: LoadedVersion) -> None:
        """Raises InvalidTerms where the version takes other inputs than the group gives."""
        names = tuple(spec.name for spec in signature_of(served).inputs)
        if names != self.inputs:
            text = f": version {served.version.version} takes {_listed(names)}, the group gives {_listed(self.inputs)}"
            raise InvalidTerms("fusion.input", text)

    def joined(self, stream: Member, name: str) -> None:
        self.members[name] = stream
        self._classify()

    def leave(self, stream: Member) -> None:
        """Notes that the stream has closed."""
        for name, member in list(self.members.items()):
            if member is stream:
                del self.members[name]
        self._classify()
        if not self.members:
            self._groups.ended(self)
            self._driver.forget_stream(self.stream_id)

    def _classify(self) -> None:
        classes = [member.terms.stream_class for member in self.members.values()]
        self.stream_class = min(classes, default=StreamClass.BEST_EFFORT)

    # ---- what its stream is told ----

    def deliver(self, outcome: Outcome) -> None:
        raise AssertionError("outcomes of joint frames go to the members")

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None:
        for member in list(self.members.values()):
            try:
                member.advise(advice, reason, period_ns)
            except Exception:
                _log.exception("stream is broken, it is ended", fusion_group=self.asked.group)
                member.fail()

    def fail(self) -> None:
        for member in list(self.members.values()):
            member.fail()


class FusionGroups:
    """The groups of all principals. Nobody reaches those of another."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._groups: dict[tuple[str, str], FusionGroup] = {}
        """By principal and name."""

    def with_member(self, stream: Member) -> tuple[StreamTerms, int]:
        """Returns the terms of the stream's group with it as a member, and the id under which it is open already; 0: it
        is not. Raises InvalidTerms where it cannot be a member.
        """
        group = self._find(stream)
        if group is None:
            return combined([stream.terms]), 0
        return combined([*[member.terms for member in group.members.values()], stream.terms]), group.stream_id

    def join(self, stream: Member) -> None:
        """Makes the stream a member of its group. It must be opened at once, and leaves its group when it closes.
        Raises InvalidTerms.
        """
        asked = stream.asked.fusion
        assert asked is not None
        group = self._find(stream)
        if group is None:
            group = FusionGroup(stream, asked, self, self._driver)
            self._groups[stream.terms.principal, asked.group] = group
        group.joined(stream, asked.input)
        place = group.inputs.index(asked.input)
        stream.fusion = group
        stream.terms.fusion = Fusion(
            group.stream_id, asked.group, group.inputs, place, group.asked.tolerance_ns, group.asked.wait
        )

    def ended(self, group: FusionGroup) -> None:
        """Forgets a group whose last member is gone. Another one may have its name already."""
        name = group.principal, group.asked.group
        if self._groups.get(name) is group:
            del self._groups[name]

    def _find(self, stream: Member) -> FusionGroup | None:
        """Returns the group that the stream asks for; None: it is the first. Raises InvalidTerms where it does not fit
        the others.
        """
        asked = stream.asked.fusion
        assert asked is not None
        _check(asked)
        group = self._groups.get((stream.terms.principal, asked.group))
        if group is None:
            return None
        name = repr(asked.group)
        if stream.asked.model != group.model:
            raise InvalidTerms("model", f"should be {group.model!r}, for which fusion group {name} is open")
        if stream.asked.version != group.version:
            version = repr(group.version) if group.version else "left out, so that it follows the active one"
            raise InvalidTerms("version", f"should be {version}, as for the other streams of fusion group {name}")
        group.check_inputs(stream.served)
        if asked.wait is not group.asked.wait:
            text = f"should be {group.asked.wait.name}, as for the other streams of the group, got {asked.wait.name}"
            raise InvalidTerms("fusion.wait", text)
        if asked.tolerance_ns != group.asked.tolerance_ns:
            text = f"should be {group.asked.tolerance_ns}, as for the other streams of the group"
            raise InvalidTerms("fusion.tolerance_ns", f"{text}, got {asked.tolerance_ns}")
        if asked.input in group.members:
            left = group.missing()
            what = f"no stream gives {_listed(left)}" if left else "all inputs of the model have a stream"
            text = f": another stream of group {name} gives {asked.input!r}; {what}"
            raise InputTaken("fusion.input", text)
        return group


def _check(asked: FusionAsked) -> None:
    """Raises InvalidTerms where what is asked for makes no sense in any group."""
    if not asked.group:
        raise InvalidTerms("fusion.group", "should be stated: the name that all streams of the group give")
    if len(asked.group.encode()) > GROUP_NAME_BYTES_MAX:
        raise InvalidTerms("fusion.group", f"is longer than {GROUP_NAME_BYTES_MAX} bytes")
    if not asked.group.isprintable():
        raise InvalidTerms("fusion.group", "has characters that cannot be printed")
    exact = asked.wait is FusionWait.EXACT
    if exact and asked.tolerance_ns:
        raise InvalidTerms("fusion.tolerance_ns", f"should be 0 with EXACT, got {asked.tolerance_ns}")
    if not exact and not 0 < asked.tolerance_ns <= TOLERANCE_NS_MAX:
        text = f"should be 1 to {TOLERANCE_NS_MAX}, got {asked.tolerance_ns}; for equal capture times ask for EXACT"
        raise InvalidTerms("fusion.tolerance_ns", text)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
