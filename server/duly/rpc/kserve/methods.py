"""Handlers of the protocol's methods, by what serves them."""

from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from duly.rpc.kserve.messages import DESCRIPTOR
from duly.rpc.kserve.names import KSERVE


def handlers(*services: object) -> grpc.GenericRpcHandler:
    """Returns handlers for the methods with one request and one response that the services have, by their names."""
    by_name: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for service in services:
        for method in DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            if serve := getattr(service, method.name, None):
                request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
                by_name[method.name] = grpc.unary_unary_rpc_method_handler(
                    serve, request.FromString, response.SerializeToString
                )
    return grpc.method_handlers_generic_handler(KSERVE, by_name)
