"""What a principal may do, and how much of the server it may use. Who the principal is, `duly.access` judges.

Everything that opens streams or acts on the server is given the rights of its caller. They are judged when a call
begins, and again whenever the policy changes.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from duly.core.types import StreamClass
from duly.streams.errors import CallError

NO_LIMIT = 0


class Right(StrEnum):
    """One kind of act. The names are those of the policy file."""

    INFER = "infer"
    """Streams and single frames."""
    READ = "read"
    """Lists of models, statistics, watching both, reflection."""
    FEEDBACK = "feedback"
    """Labels for frames of its own streams."""
    FEEDBACK_ANY = "feedback-any"
    """Labels for frames of all streams of the models that it may use; it needs `feedback`, too."""
    LOAD = "load"
    UNLOAD = "unload"
    ACTIVATE = "activate"
    DRAIN = "drain"
    DUMP = "dump"
    """Writing recordings of what happened."""
    LOG = "log"
    """Changing what the server logs."""


USE = frozenset({Right.INFER, Right.READ, Right.FEEDBACK})
"""The rights of a sensor where no policy says otherwise."""
ADMIN = frozenset(Right) - USE - {Right.FEEDBACK_ANY}
"""Rights to change the server for everybody."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one principal may use with all its streams together; NO_LIMIT: as much as the server has."""

    streams_max: int = NO_LIMIT
    frames_per_s_max: float = NO_LIMIT
    bytes_per_s_max: float = NO_LIMIT
    lane_share_max: float = NO_LIMIT
    """Share of the time of all lanes, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What one caller may do."""

    principal: str
    """Whose streams they are. Limits and fairness count all streams of one principal together."""
    proven: bool = False
    """Whether a credential proves the principal; else it is no more than the address that the call came from."""
    may: frozenset[Right] = USE
    models: tuple[str, ...] = ("*",)
    """Patterns of the names of models that may be used, such as `lane-*`."""
    classes: frozenset[StreamClass] = frozenset(StreamClass)
    """Classes that streams and frames may claim."""
    quota: Quota = field(default=Quota())

    def may_use(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def check_model(self, model: str) -> None:
        """Raises CallError where the model may not be used. Whether there is such a model, the error does not tell."""
        if not self.may_use(model):
            text = f"{self.principal!r} has no right to use the model {model!r}; the server's policy names those it may"
            raise CallError("NOT_PERMITTED", text, "model")

    def check_class(self, stream_class: StreamClass, asked: StreamClass | None) -> None:
        """Raises CallError where the class may not be claimed. `asked`: None where it is the model's default."""
        if stream_class in self.classes:
            return
        whose = "" if asked is not None else ", which is the model's default_class"
        allowed = ", ".join(cls.name for cls in sorted(self.classes)) or "none"
        text = f"stream_class: {self.principal!r} may not claim {stream_class.name}{whose}; it may claim: {allowed}"
        raise CallError("NOT_PERMITTED", text, "stream_class")
