"""What all calls of the protocol share, and how a request asks for a stream."""

from dataclasses import dataclass

from duly.core.types import StreamClass
from duly.models.kserve import class_of_priority
from duly.models.kserve_model import rows_max
from duly.models.spec import ModelConfig, Signature
from duly.rpc.kserve.messages import ModelInferRequest
from duly.rpc.kserve.parameters import Asked, invalid
from duly.rpc.kserve.regions import Regions
from duly.rpc.kserve.versions import find
from duly.runtime.catalogue import LoadedVersion
from duly.streams.open_streams import OpenStreams
from duly.streams.rights import Rights
from duly.streams.terms import StreamRequest

PRIORITY_LEVELS = 3
"""How many levels of priority models have that state none. Priorities beyond them mean nothing."""
SEQUENCE_IDLE_NS_MAX = 60_000_000_000
"""A sequence of which no request is under way, and none has come for so long, is over."""


@dataclass(frozen=True, slots=True)
class FrontEnd:
    streams: OpenStreams
    regions: Regions
    budget_ns: int
    """The budget of requests that state none, for models whose model.toml states none."""

    def stream_request(self, request: ModelInferRequest, asked: Asked, rights: Rights) -> StreamRequest:
        """Returns how the stream of a request is to be served. Raises CallError or ModelError where there is no such
        model for the caller.
        """
        rights.check_model(request.model_name)
        served = find(self.streams.host.catalogue, request.model_name, request.model_version)
        return StreamRequest(
            model=request.model_name,
            version=request.model_version,
            stream_class=class_of(asked, served.version.config.kserve.priority_levels),
            backlog_policy=asked.backlog,
            backlog_frames=asked.backlog_frames,
            default_budget_ns=self._default_budget_ns(served.version.config),
            expected_period_ns=asked.period_ns,
            clock=asked.clock,
            budget_name="the budget, parameter 'timeout' or 'budget_us' in nanoseconds,",
        )

    def single_request(self, request: ModelInferRequest, asked: Asked, rights: Rights) -> StreamRequest:
        """Returns the same for a request alone, which is promised nothing: STANDARD where it would be CRITICAL."""
        asking = self.stream_request(request, asked, rights)
        asking.single = True
        asking.expected_period_ns = 0
        if asking.stream_class is StreamClass.CRITICAL:
            asking.stream_class = StreamClass.STANDARD
        return asking

    def rows_max(self, served: LoadedVersion, signature: Signature) -> int:
        """Returns how many rows a request for the version may have; 0: requests have no batch dimension."""
        return rows_max(served.version.config, signature, self.streams.limits.stream.frames_in_flight_max)

    def default_budget_ns(self, config: ModelConfig) -> int:
        """Returns the budget of requests that state none."""
        return self._default_budget_ns(config) or int(config.default_budget_ms * 1e6)

    def _default_budget_ns(self, config: ModelConfig) -> int:
        if "default_budget_ms" in config.model_fields_set:
            return 0
        return min(self.budget_ns, self.streams.limits.stream.budget_ns_max)

    def keeps_state(self, request: ModelInferRequest, rights: Rights) -> bool:
        """Whether the model of a request keeps state, so that its sequences have to be told apart. Raises CallError or
        ModelError as `stream_request` does.
        """
        rights.check_model(request.model_name)
        served = find(self.streams.host.catalogue, request.model_name, request.model_version)
        return served.signature is not None and served.signature.stateful


def class_of(asked: Asked, levels: int) -> StreamClass | None:
    """Returns the class that a request asks for; None: the model's default. Priority 1, the highest, of a request that
    states its period is CRITICAL. Otherwise it is as the model's `levels` of priority have it, and where it has none,
    as of three.
    """
    if asked.priority == 1 and asked.period_ns:
        return StreamClass.CRITICAL
    return class_of_priority(asked.priority, levels or PRIORITY_LEVELS)


def check_start(request: ModelInferRequest, asked: Asked) -> None:
    """Raises CallError where a request of a sequence that is not there does not begin it."""
    if not asked.starts:
        text = f"is {asked.sequence!r}, a sequence of model {request.model_name!r} that has not begun or is over; its "
        raise invalid("sequence_id", text + "first request has 'sequence_start' true")


def budget_ns(default_ns: int, asked: Asked, remaining_s: float | None) -> int:
    """Returns the budget of a request: the one it states, else the default, and no more than is left of its call.
    `remaining_s`: how much that is; None: any.
    """
    wanted_ns = asked.budget_ns or default_ns
    return wanted_ns if remaining_s is None else max(1, min(wanted_ns, int(remaining_s * 1e9)))
