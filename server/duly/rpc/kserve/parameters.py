"""The parameters of a request: what KServe, Triton and duly let a client say beside its tensors.

| parameter | type | what it says |
| --- | --- | --- |
| `timeout`, `budget_us` | int64 | budget in microseconds, the smaller of both; 0: none is stated |
| `priority` | uint64 or int64 | class, see `front_end.class_of`; 0: the model's |
| `period_us` | int64 | the period at which requests like this come, which admission judges |
| `capture_time_us` | int64 | when the sample was taken, in us since 1970, by a clock kept right as the server's is |
| `backlog` | string | ALL, LATEST or KEEP_LAST:n: what waits while the model is busy |
| `sequence_id` | int64, uint64 or string | requests that share the state of a model; 0 and empty: none |
| `sequence_start`, `sequence_end` | bool | whether the request is the first, or the last, of its sequence |
| `duly_outcomes` | bool | whether a request that is dropped gets a reply that says so, in place of an error |
| `triton_enable_empty_final_response` | bool | nothing: each request has one reply, which says that it is the last |

Other names are the caller's own. A parameter of another type, or with a value that means nothing, is an error that
names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from duly.core.types import BacklogPolicy
from duly.rpc.kserve.messages import InferParameter
from duly.streams.clock import ClockRelation
from duly.streams.errors import CallError

PARAMETERS_MAX = 64
"""A request, an input or an output with more parameters is refused."""
SEQUENCE_ID_CHARS_MAX = 128
"""A longer `sequence_id` is refused. It is as long as Triton's may be."""
_SYNCHRONISED = ClockRelation(0, 1_000_000)
"""Who states when a sample was taken says that his clock is kept right, as NTP and PTP do, to a millisecond."""
_NAME_CHARS_SHOWN = 64
_TIME_US_MAX = (1 << 63) // 1000 - 1
_INTEGERS = ("int64_param", "uint64_param")


@dataclass(slots=True)
class Asked:
    """What the parameters of a request ask for."""

    budget_ns: int = 0
    """0: none is stated."""
    priority: int = 0
    """0: none is stated."""
    period_ns: int = 0
    captured_unix_ns: int = 0
    backlog: BacklogPolicy = BacklogPolicy.ALL
    backlog_frames: int = 0
    sequence: int | str = 0
    """0 and empty: the request belongs to none."""
    starts: bool = False
    ends: bool = False
    outcomes: bool = False

    @property
    def clock(self) -> ClockRelation | None:
        """How the caller's clock relates to the server's; None: it states no time."""
        return _SYNCHRONISED if self.captured_unix_ns else None


NOTHING = Asked()
"""What a request without parameters asks for."""


def asked_for(parameters: Mapping[str, InferParameter]) -> Asked:
    """Returns what the parameters ask for. Raises CallError INVALID_REQUEST."""
    if not parameters:
        return NOTHING
    if len(parameters) > PARAMETERS_MAX:
        raise invalid("parameters", f"are {len(parameters)}, at most {PARAMETERS_MAX} are taken")
    asked = Asked()
    for name, parameter in parameters.items():
        match name:
            case "triton_enable_empty_final_response":
                _flag(name, parameter)  # each request has one reply, which says that it is the last
            case "timeout" | "budget_us":
                budget_ns = _budget_us(name, parameter) * 1000
                asked.budget_ns = min(budget_ns, asked.budget_ns) or budget_ns or asked.budget_ns
            case "priority":
                asked.priority = integer_of(name, parameter, (1 << 64) - 1)
            case "period_us":
                asked.period_ns = integer_of(name, parameter, _TIME_US_MAX) * 1000
            case "capture_time_us":
                asked.captured_unix_ns = integer_of(name, parameter, _TIME_US_MAX) * 1000
            case "backlog":
                asked.backlog, asked.backlog_frames = _backlog(text_of(name, parameter))
            case "sequence_id":
                asked.sequence = _sequence(parameter)
            case "sequence_start":
                asked.starts = _flag(name, parameter)
            case "sequence_end":
                asked.ends = _flag(name, parameter)
            case "duly_outcomes":
                asked.outcomes = _flag(name, parameter)
            case _ if name.startswith("triton_"):
                raise invalid(
                    name[:_NAME_CHARS_SHOWN], "is unknown; names that begin with triton_ are the protocol's own"
                )
            case _ if parameter.WhichOneof("parameter_choice") is None:
                raise invalid(name[:_NAME_CHARS_SHOWN], "has no value")
    if not asked.sequence and (asked.starts or asked.ends):
        named = "sequence_start" if asked.starts else "sequence_end"
        raise invalid(named, "is true, but there is no sequence_id to say of which sequence")
    return asked


def invalid(name: str, text: str) -> CallError:
    """Returns the error of a parameter."""
    return CallError("INVALID_REQUEST", f"parameter '{name}' {text}" if name != "parameters" else f"parameters {text}")


def _kind(parameter: InferParameter) -> str:
    kind = parameter.WhichOneof("parameter_choice")
    return kind.removesuffix("_param") if kind else "nothing"


def _flag(name: str, parameter: InferParameter) -> bool:
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise invalid(name, f"should be a bool, got {_kind(parameter)}")
    return parameter.bool_param


def text_of(name: str, parameter: InferParameter) -> str:
    """Returns the value of a parameter that is text. Raises CallError."""
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise invalid(name, f"should be a string, got {_kind(parameter)}")
    return parameter.string_param


def integer_of(name: str, parameter: InferParameter, most: int) -> int:
    """Returns the value of a parameter that is a number from 0 to `most`. Raises CallError."""
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in _INTEGERS:
        raise invalid(name, f"should be an int64 or uint64, got {_kind(parameter)}")
    value = parameter.int64_param if kind == "int64_param" else parameter.uint64_param
    if not 0 <= value <= most:
        raise invalid(name, f"should be 0 to {most}, got {value}")
    return value


def _budget_us(name: str, parameter: InferParameter) -> int:
    """Returns a budget; 0: none is stated, which clients of Triton also say by a negative `timeout`."""
    if name == "timeout" and parameter.WhichOneof("parameter_choice") == "int64_param" and parameter.int64_param < 0:
        return 0
    return integer_of(name, parameter, _TIME_US_MAX)


def _backlog(text: str) -> tuple[BacklogPolicy, int]:
    name, colon, frames = text.partition(":")
    try:
        policy = BacklogPolicy[name]
    except KeyError:
        policy = None
    if policy is BacklogPolicy.KEEP_LAST and frames.isascii() and frames.isdigit() and len(frames) < 10:
        return policy, int(frames)
    if policy is None or policy is BacklogPolicy.KEEP_LAST or colon:
        raise invalid("backlog", f"should be ALL, LATEST or KEEP_LAST:n, got '{text[:64]}'")
    return policy, 0


def _sequence(parameter: InferParameter) -> int | str:
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "string_param":
        text = parameter.string_param
        if len(text) > SEQUENCE_ID_CHARS_MAX:
            raise invalid("sequence_id", f"has {len(text)} characters, at most {SEQUENCE_ID_CHARS_MAX} are taken")
        return text
    if kind not in _INTEGERS:
        raise invalid("sequence_id", f"should be an int64, a uint64 or a string, got {_kind(parameter)}")
    return parameter.int64_param if kind == "int64_param" else parameter.uint64_param
