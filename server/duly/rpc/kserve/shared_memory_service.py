"""Registers regions of shared memory for clients on this machine. There are none on GPUs."""

from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.message import Message

from duly.rpc.errors import guarded
from duly.rpc.kserve import messages as ks
from duly.rpc.kserve.regions import Regions
from duly.rpc.principal import rights_of
from duly.streams.errors import CallError

Context = grpc.aio.ServicerContext[Any, Any]


class SharedMemoryService:
    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """Returns what serves each method."""
        return {
            "SystemSharedMemoryStatus": _handler(self.status, ks.SystemSharedMemoryStatusRequest),
            "SystemSharedMemoryRegister": _handler(self.register, ks.SystemSharedMemoryRegisterRequest),
            "SystemSharedMemoryUnregister": _handler(self.unregister, ks.SystemSharedMemoryUnregisterRequest),
            "CudaSharedMemoryStatus": _handler(self.cuda_status, ks.CudaSharedMemoryStatusRequest),
            "CudaSharedMemoryRegister": _handler(self.cuda_register, ks.CudaSharedMemoryRegisterRequest),
            "CudaSharedMemoryUnregister": _handler(self.cuda_unregister, ks.CudaSharedMemoryUnregisterRequest),
        }

    @guarded
    async def register(
        self, request: ks.SystemSharedMemoryRegisterRequest, context: Context
    ) -> ks.SystemSharedMemoryRegisterResponse:
        principal = rights_of(context).principal
        self._regions.register(context.peer(), principal, request.name, request.key, request.offset, request.byte_size)
        return ks.SystemSharedMemoryRegisterResponse()

    @guarded
    async def unregister(
        self, request: ks.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> ks.SystemSharedMemoryUnregisterResponse:
        self._regions.unregister(context.peer(), rights_of(context).principal, request.name)
        return ks.SystemSharedMemoryUnregisterResponse()

    @guarded
    async def status(
        self, request: ks.SystemSharedMemoryStatusRequest, context: Context
    ) -> ks.SystemSharedMemoryStatusResponse:
        """Lists the caller's own regions, or the one that is asked for. Where shared memory is off, there are none."""
        if self._regions.off:
            if request.name:
                raise _unknown(request.name)
            return ks.SystemSharedMemoryStatusResponse()
        owner = self._regions.owner(context.peer(), rights_of(context).principal)
        regions = self._regions.of_owner(owner)
        if request.name and request.name not in regions:
            raise _unknown(request.name)
        response = ks.SystemSharedMemoryStatusResponse()
        for name, region in regions.items():
            if not request.name or name == request.name:
                said = response.regions[name]
                said.name, said.key = name, region.key
                said.offset, said.byte_size = region.offset, region.size_bytes
        return response

    @guarded
    async def cuda_register(
        self, request: ks.CudaSharedMemoryRegisterRequest, context: Context
    ) -> ks.CudaSharedMemoryRegisterResponse:
        text = "memory of GPUs is not shared by this server; send the data, or use shared memory of the system"
        raise CallError("SHARED_MEMORY_OFF", text)

    @guarded
    async def cuda_unregister(
        self, request: ks.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> ks.CudaSharedMemoryUnregisterResponse:
        return ks.CudaSharedMemoryUnregisterResponse()  # perf_analyzer gives up both kinds, whichever it uses

    @guarded
    async def cuda_status(
        self, request: ks.CudaSharedMemoryStatusRequest, context: Context
    ) -> ks.CudaSharedMemoryStatusResponse:
        if request.name:
            raise _unknown(request.name)
        return ks.CudaSharedMemoryStatusResponse()


def _unknown(name: str) -> CallError:
    return CallError(
        "REGION_NOT_FOUND", f"there is no region {name[:64]!r} of shared memory that this caller registered"
    )


def _handler(
    serve: Callable[[Any, Context], Coroutine[Any, Any, Message]], request: type[Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(serve, request.FromString, lambda response: response.SerializeToString())
