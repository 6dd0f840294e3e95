"""Serves the metrics over HTTP, to a few scrapers at a time.

Bounds: SCRAPES_MAX connections are open at once; further ones are closed at once. Each ends after SECONDS_MAX, also one
that sends or takes a byte now and then. So scrapers that hang take no descriptors from the frames' connections.
"""

import contextlib
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from duly.listening import why_not
from duly.metric_families import Families
from duly.metrics import Metrics

SCRAPES_MAX = 8
"""So many scrapes are answered at once. Further connections are closed as they come."""
SECONDS_MAX = 10.0
"""How long a scrape may take from its connection to the last byte; then it is closed. It takes milliseconds."""


class MetricsError(Exception):
    """The metrics cannot be served; the message says where and why."""


class _Handler(WSGIRequestHandler):
    timeout = SECONDS_MAX

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: scrapes are no events."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(SCRAPES_MAX)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except Exception:  # there is no room for a thread, and nobody else gives the place back
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        deadline = threading.Timer(SECONDS_MAX, _hang_up, (request,))
        deadline.daemon = True
        try:
            deadline.start()
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that goes away meanwhile is no error of the server."""


def _hang_up(connection: socket.socket) -> None:
    """Ends what its thread waits for."""
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """Answers scrapes on daemon threads until `stop` is called."""

    def __init__(self, server: WSGIServer) -> None:
        self._server = server
        self.port: int = server.server_port

    def stop(self) -> None:
        """Ends the thread; returns when the socket is closed."""
        self._server.shutdown()
        self._server.server_close()


def serve_metrics(address: str, metrics: Metrics) -> MetricsServer:
    """Serves `metrics` and those of the process at http://HOST:PORT/metrics.

    `address` is HOST:PORT or [IPV6]:PORT, as `duly.config` checks it; port 0 means any free one. Raises MetricsError
    where the address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    registry.register(Families(metrics))
    ProcessCollector(registry=registry)
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        kind = _ServerV6 if family == socket.AF_INET6 else _Server
        server = make_server(str(place[0]), int(port), make_wsgi_app(registry), kind, _Handler)
    except (OSError, UnicodeError) as error:
        raise MetricsError(f"metrics cannot be served at {address}: {why_not(address, error)}") from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return MetricsServer(server)
