"""What the server's services and messages are, for clients that ask it by reflection, such as grpcurl."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from duly.rpc.kserve import messages
from duly.v1 import inference_pb2, model_pb2, server_pb2

_FILES = (inference_pb2, model_pb2, server_pb2, health_pb2, reflection_pb2, error_details_pb2, messages)
"""The last but one is what errors hold beside their texts."""


def service_descriptions() -> DescriptorPool:
    """Returns a pool with all services. It is another one than protobuf's own, where the messages of KServe's protocol
    may be those of an installed client.
    """
    pool = DescriptorPool()
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in added:
            added.add(file.name)
            for needed in file.dependencies:
                add(needed)
            pool.AddSerializedFile(file.serialized_pb)

    for module in _FILES:
        add(module.DESCRIPTOR)
    return pool
