"""grpc.health.v1: whether the server, its services and its models can serve, derived from the catalogue.

| service | it is SERVING while |
| --- | --- |
| "", duly.v1.InferenceService, inference.GRPCInferenceService | at least one model can serve |
| duly.v1.ModelService, duly.v1.ServerService | the server runs |
| the name of a model | its active version has a worker that is ready |

From the beginning of a drain on, all of them are NOT_SERVING. So "" is what a readiness probe asks for, as one model
that is down must not take the others' clients away, and duly.v1.ServerService is for a liveness probe, as a server
without a model that can serve is not mended by a restart. A name that is no service and no model is not known: `Check`
ends with NOT_FOUND, and `Watch` says SERVICE_UNKNOWN until there is one.

Nothing is stored: every answer is looked up when it is given. Each watcher has a coroutine of its own, which writes the
newest status whenever that is another than it has written, so one that does not read misses what is outdated and holds
up nobody. How many may watch at once, `rpc/call_limits` says.
"""

from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2

from duly.rpc.errors import guarded
from duly.rpc.kserve.names import KSERVE
from duly.rpc.principal import rights_of
from duly.runtime.catalogue import Catalogue
from duly.streams.errors import CallError
from duly.v1 import inference_pb2, model_pb2, server_pb2

INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
MODELS = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
SERVER = server_pb2.DESCRIPTOR.services_by_name["ServerService"].full_name
SERVICES = (INFERENCE, KSERVE, MODELS, SERVER)
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

Context = grpc.aio.ServicerContext[object, object]

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._draining = False

    def drain(self) -> None:
        """Reports from now on that nothing is served any more. Watchers hear of it at once."""
        self._draining = True
        self._catalogue.notify()

    @guarded
    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        status = self._status(request.service)
        if status == _UNKNOWN:
            raise CallError("SERVICE_NOT_FOUND", f"there is no service or model {request.service!r}", "service")
        return health_pb2.HealthCheckResponse(status=status)

    @guarded
    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        names = ("", *SERVICES, *filter(rights_of(context).may_use, self._catalogue.names()))
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        async for _ in self._catalogue.changes():
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)

    def _status(self, service: str) -> int:
        match service:
            case "" | "duly.v1.InferenceService" | "inference.GRPCInferenceService":
                serving = self._catalogue.serves_any()
            case "duly.v1.ModelService" | "duly.v1.ServerService":
                serving = True
            case _ if service in self._catalogue.names():
                serving = self._can_serve(service)
            case _:
                return _UNKNOWN
        return _SERVING if serving and not self._draining else _NOT_SERVING

    def _can_serve(self, name: str) -> bool:
        active = self._catalogue.active(name)
        return active is not None and active.serves
