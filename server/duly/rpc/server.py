"""The gRPC server: transport options, services, health, reflection, ports."""

import errno
import os
import socket
import stat
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from duly.listening import why_not
from duly.models.sizes import WIRE_BYTES_MAX
from duly.rpc.call_limits import CallLimits
from duly.rpc.duly_v1.inference_service import InferenceService
from duly.rpc.duly_v1.services import ModelService, ServerService
from duly.rpc.health import HEALTH, INFERENCE, MODELS, SERVER, HealthService
from duly.rpc.kserve import methods
from duly.rpc.kserve.inference_service import KServeInference
from duly.rpc.kserve.machine_service import KServeMachine
from duly.rpc.kserve.models_service import KServeModels
from duly.rpc.kserve.names import KSERVE
from duly.rpc.kserve.shared_memory_service import SharedMemoryService
from duly.rpc.service_descriptions import service_descriptions
from duly.v1 import model_pb2_grpc, server_pb2_grpc

MESSAGE_BYTES_MIN = 4 * 1024 * 1024
"""The least limit of a message, which is gRPC's own default. Models with larger frames raise it."""
CALLS_BESIDE_STREAMS_MAX = 256
CALLS_TIMES = 2
"""One connection may have CALLS_TIMES as many calls under way as streams may be open and CALLS_BESIDE_STREAMS_MAX. Its
client keeps back what is more. The limits of each kind of call come first, as gRPC's says no reason."""
CALLS_MAX = 65_536
"""How many calls may be under way at all; gRPC refuses further ones. The limits of each kind of call come first."""
KEEPALIVE_MS = {"lan": (2_500, 2_000), "wan": (15_000, 20_000)}
"""By the transport: a connection from which nothing has come for so long is asked whether it is there, and is given up
if it does not answer for so long. Both together are the longest that a dead link keeps its streams and what they were
promised: 4.5 s and 35 s."""
PENDING_CALLS_MAX = 16_384
"""How many calls may have come and not yet begun. When there are more, gRPC ends some of anybody's, and all beyond
twice as many: CANCELLED. Who opens and resets calls by the thousand fills its own default of 1,000 at once.
"""
METADATA_BYTES_MAX = 8192
"""The largest metadata of a call; gRPC refuses a call with more: RESOURCE_EXHAUSTED."""
HANDSHAKE_MS_MAX = 10_000
"""How long a connection may take to begin with HTTP/2; then it is closed."""
IDLE_MS_MAX = 300_000
"""A connection without a call is closed after this long; its client connects again when it needs to. One with an open
stream is never idle.
"""

Server = grpc.aio.Server


class ListenError(Exception):
    """The address cannot be listened on."""


def message_limit(needed: int) -> int:
    """Returns the size of the largest message to read, in bytes. `needed`: what the largest frame of any model takes.

    It is twice that, because the transport ends the call of a message that is larger, and a frame that is too large for
    its model is better told that it is INVALID.
    """
    return max(MESSAGE_BYTES_MIN, min(2 * needed, WIRE_BYTES_MAX))


def create_server(
    transport: str,
    inference: InferenceService | None,
    kserve: KServeInference | None,
    shared_memory: SharedMemoryService | None,
    streams_max: int,
    message_bytes_max: int,
    connections_max: int,
    guard: grpc.aio.ServerInterceptor,
    compression: bool = False,
) -> grpc.aio.Server:
    """Creates the gRPC server with the InferenceService. `transport`: "lan" bounds what the transport buffers ahead to
    about one small message, so that stale frames wait where the backlog policy reaches them; "wan" lets gRPC size its
    window by the path's bandwidth and delay, and waits longer for links that are silent. Connections beyond
    `connections_max` are closed as they come. `guard`: what stands before every handler. Without `inference` it serves
    no models, as at the admin address. `compression`: whether compressed messages are taken. What one unpacks to has
    the limit of messages, and yet each KiB of well packed zeros keeps a processor busy for 3 ms, whatever it is for.
    """
    options: list[tuple[str, int]] = [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would each get some of the streams.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", CALLS_TIMES * (streams_max + CALLS_BESIDE_STREAMS_MAX)),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_allowed_incoming_connections", connections_max),
        # Who connects and says nothing gives the place back.
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS_MAX),
        ("grpc.max_connection_idle_ms", IDLE_MS_MAX),
        # Sensors that ping every 10 s through idle times are welcome.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
        ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS_MAX),
        *_keepalive(KEEPALIVE_MS[transport]),
    ]
    if not compression:
        options.append(("grpc.compression_enabled_algorithms_bitset", 1))
    if transport == "lan":
        options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 256 * 1024)]
    # The limits come first: they bound what finding out who calls costs, too.
    limits = CallLimits(streams_max)
    server = grpc.aio.server(interceptors=(limits, guard), options=options, maximum_concurrent_rpcs=CALLS_MAX)
    if inference is None or kserve is None or shared_memory is None:
        return server
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        # Requests come as bytes, so that a message that is no protobuf gets our status and not a stack trace.
        # Responses go as bytes, so that while a client does not read, its results are in memory once.
        "Stream": grpc.stream_stream_rpc_method_handler(inference.stream),
        "Infer": grpc.unary_unary_rpc_method_handler(inference.infer),
        "Feedback": grpc.unary_unary_rpc_method_handler(inference.feedback),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(INFERENCE, handlers),))
    of_kserve: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(kserve.infer),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(kserve.stream),
        **shared_memory.handlers(),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(KSERVE, of_kserve),))
    return server


def _keepalive(times_ms: tuple[int, int]) -> list[tuple[str, int]]:
    time_ms, timeout_ms = times_ms
    return [
        ("grpc.keepalive_time_ms", time_ms),
        # The first bounds how long data may go unacknowledged (TCP_USER_TIMEOUT), the second how long a ping may go
        # unanswered, which gRPC does not take from the first.
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def add_services(
    server: grpc.aio.Server,
    models: ModelService,
    control: ServerService,
    health: HealthService,
    kserve: tuple[KServeModels, KServeMachine],
    reflect: bool,
) -> None:
    """Adds what serves no model. `kserve`: the same in that protocol."""
    model_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    server_pb2_grpc.add_ServerServiceServicer_to_server(control, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_generic_rpc_handlers((methods.handlers(*kserve),))
    if reflect:
        names = (INFERENCE, KSERVE, MODELS, SERVER, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, service_descriptions())


def check_free(address: str) -> None:
    """Raises ListenError where `address` cannot be listened on. Removes a UNIX socket that nobody listens on."""
    try:
        if address.startswith("unix:"):
            _try_to_make_socket(address.removeprefix("unix:"))
        else:
            _try_to_bind(address)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {address}: {why_not(address, error)}") from None


def _try_to_bind(address: str) -> None:
    """Raises OSError or UnicodeError where none of the addresses that the host's name stands for can be bound."""
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    errors = []
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            errors.append(error)
    taken = [error for error in errors if error.errno == errno.EADDRINUSE]
    if taken or len(errors) == len(found):
        raise (taken or errors)[0]


def clear_socket(path: str, kind: socket.SocketKind) -> None:
    """Removes a socket at `path` that nobody listens at. Raises OSError where somebody does. `kind`: of the socket that
    is to be made there.
    """
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # somebody is there, and busy
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _try_to_make_socket(path: str) -> None:
    """Raises OSError where no socket can be made at `path`. A socket that nobody listens at is removed."""
    clear_socket(path, socket.SOCK_STREAM)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(path)
    os.unlink(path)


def listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Binds `HOST:PORT` or `unix:PATH`; returns the address with the port that it got. `credentials`: those of TLS;
    None: plain text. Raises ListenError.
    """
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ListenError(f"cannot listen on {address}: use an address of this machine, or 0.0.0.0 for all") from None
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
