"""The addresses at which the server listens, and what protects each: TLS, the gate, the mode of a socket's file.

The admin address, if there is one, belongs to a server of its own, with the services that act on models and the server
and nothing else. Then admin acts are taken there alone.
"""

import contextlib
import errno
import grp
import os

import grpc
import structlog

from duly.access.audit import Audit
from duly.access.evidence import LocalConnection
from duly.access.gate import Gate
from duly.access.listeners import Listener, main_listener
from duly.access.loopback_peers import LoopbackPeers
from duly.access.tls_files import TlsContents, TlsFiles
from duly.access.unix_peers import UnixPeers, bind_unix, under_mode
from duly.addresses import is_local
from duly.config import ServerConfig
from duly.rpc.guard import Guard
from duly.rpc.server import ListenError, Server, check_free, listen

ADMIN_MODE = 0o600
"""The admin socket is for the server's own user."""
CLOSE_SECONDS = 1.0

_log = structlog.get_logger("duly")


class Doors:
    def __init__(self, config: ServerConfig) -> None:
        """Raises AccessError where the policy, a certificate or the audit file cannot be used."""
        self._config = config
        self._tls: TlsFiles | None = None
        if config.tls_cert is not None and config.tls_key is not None:
            self._tls = TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca)
        self.gate = Gate(config.policy, Audit(config.audit_log))
        policy = self.gate.policy
        self._relays: dict[str, UnixPeers] = {}
        for address in filter(None, (config.listen, config.admin_listen)):
            if address.startswith("unix:") and policy is not None and policy.asks_unix:
                self._relays[address] = UnixPeers()
        self._shares_memory = config.kserve_shared_memory != "off"
        if self._shares_memory and config.listen.startswith("unix:"):
            self._relays.setdefault(config.listen, UnixPeers())
        self._loopback: LoopbackPeers | None = None
        self._main = main_listener(config.listen, config.admin_listen, policy is not None)
        self.admin_address = ""

    def check_free(self) -> None:
        """Raises ListenError where an address cannot be listened on, or there is no such group."""
        check_free(self._config.listen)
        self._socket_group()
        if self._config.admin_listen is not None:
            check_free(self._config.admin_listen)

    async def start(self) -> None:
        """Reads what is read at start, and tells what protects the server. Raises AccessError."""
        await self.gate.start()
        _log.info("access", protected_by=self._protection(), admin=self._admin_words())
        for warning in self._warnings():
            _log.warning(warning)

    def guard(self) -> Guard:
        """Returns what stands before the handlers at the main address."""
        return self._guard(self._config.listen, self._main)

    def admin_guard(self) -> Guard | None:
        """Returns what stands before the handlers at the admin address; None: there is no such address."""
        address = self._config.admin_listen
        return None if address is None else self._guard(address, Listener(True))

    def _guard(self, address: str, listener: Listener) -> Guard:
        return Guard(self.gate, listener, self._tls if self._secure(address) else None, self._relays.get(address))

    async def open(self, server: Server, connections_max: int) -> str:
        """Binds the main address; returns it with the port that it got. Raises ListenError."""
        config = self._config
        address = await self._bind(server, config.listen, self.socket_mode, connections_max)
        if config.listen.startswith("unix:"):
            self.give_to_group(config.listen.removeprefix("unix:"))
        elif self._shares_memory:
            try:
                self._loopback = LoopbackPeers(address)
            except OSError as error:
                text = (
                    f"the system does not tell whose connections are ({errno.errorcode.get(error.errno or 0, error)})"
                )
                raise ListenError(f"kserve_shared_memory: {text}: listen at a UNIX socket") from None
        return address

    def connection(self, name: str) -> LocalConnection | None:
        """Returns the connection at the main address of a client that gRPC names; None: it is over, or it is not known
        which user of this machine has it. It is known only where clients may share memory.
        """
        relay = self._relays.get(self._config.listen)
        if relay is not None:
            return relay.connection(name)
        return self._loopback.connection(name) if self._loopback is not None else None

    @property
    def socket_mode(self) -> int | None:
        """The mode of the UNIX sockets at which clients connect; None: as the umask has it."""
        mode = self._config.socket_mode
        return int(mode, 8) if mode is not None else None

    def give_to_group(self, path: str) -> None:
        """Gives a UNIX socket to the group whose members may connect, if there is one. Raises ListenError."""
        if (group := self._socket_group()) is not None:
            try:
                os.chown(path, -1, group)
            except OSError as error:
                text = f"cannot give {path} to the group {self._config.socket_group}: {error.strerror}"
                raise ListenError(text) from None

    def _socket_group(self) -> int | None:
        """Returns the id of the group that the socket is given to. Raises ListenError where there is none."""
        name = self._config.socket_group
        try:
            return None if name is None else grp.getgrnam(name).gr_gid
        except KeyError:
            raise ListenError(f"socket_group: this machine has no group {name}") from None

    async def open_admin(self, server: Server, connections_max: int) -> None:
        """Binds the admin address. Raises ListenError."""
        assert self._config.admin_listen is not None
        self.admin_address = await self._bind(server, self._config.admin_listen, ADMIN_MODE, connections_max)

    async def _bind(self, server: Server, address: str, mode: int | None, connections_max: int) -> str:
        relay = self._relays.get(address)
        if relay is not None:
            path = address.removeprefix("unix:")
            listen(server, relay.inner)
            try:
                outer = under_mode(mode, lambda: bind_unix(path))
            except OSError as error:
                raise ListenError(f"cannot listen on {address}: {error.strerror}") from None
            await relay.listen(outer, connections_max)
            return address
        credentials = _credentials(self._tls) if self._tls is not None and self._secure(address) else None
        if address.startswith("unix:"):
            return under_mode(mode, lambda: listen(server, address))
        return listen(server, address, credentials)

    def _secure(self, address: str) -> bool:
        return self._tls is not None and not address.startswith("unix:")

    async def reload(self) -> None:
        """Opens the audit file anew, and reads the files of TLS and soon the policy again. Raises AccessError where the
        audit file cannot be opened; the one before stays then.
        """
        self.look()
        self.gate.reload_soon()
        self.gate.audit.reopen()

    def look(self) -> None:
        """Reads the files of TLS if they have changed, so that what is wrong there is told before a client comes."""
        if self._tls is not None:
            self._tls.contents()

    async def close(self) -> None:
        for relay in self._relays.values():
            await relay.close()
        for address in self._relays:
            with contextlib.suppress(OSError):
                os.unlink(address.removeprefix("unix:"))
        if self._loopback is not None:
            self._loopback.close()
        self.gate.close()

    # ---- what protects the server, in words ----

    def _protection(self) -> str:
        config, policy = self._config, self.gate.policy
        parts = []
        if config.listen.startswith("unix:"):
            parts.append(f"the mode {config.socket_mode} of its socket" if config.socket_mode else "its socket's mode")
        elif self._tls is not None:
            parts.append("TLS with client certificates" if self._tls.asks_certificates else "TLS")
        elif is_local(config.listen):
            parts.append("loopback")
        if policy is not None:
            parts.append(f"a policy of {len(policy.principal)} principals")
        return ", ".join(parts) or "nothing"

    def _admin_words(self) -> str:
        if self._config.admin_listen is not None:
            return f"at {self._config.admin_listen} alone"
        if not self._main.admin:
            return "refused"
        return "by the policy" if self.gate.policy is not None else "anybody on this machine"

    def _warnings(self) -> list[str]:
        config, policy = self._config, self.gate.policy
        if is_local(config.listen):
            return []
        certificates = self._tls is not None and self._tls.asks_certificates
        warnings = []
        if policy is None and not certificates:
            warnings.append(
                f"anybody who can reach {config.listen} may use every model: listen on 127.0.0.1 or a UNIX socket, or "
                "set policy or tls_client_ca; admin acts are refused there"
            )
        elif policy is not None and not policy.asks_credentials:
            warnings.append("the policy lets in callers without any credential (anyone = true)")
        if self._tls is None and policy is not None:
            warnings.append(
                f"tokens and frames cross the network in clear text to {config.listen}: set tls_cert, tls_key"
            )
        return warnings


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Returns credentials that use the files as they are when a connection is made. TLS is of version 1.2 at least."""

    def configuration(contents: TlsContents) -> grpc.ServerCertificateConfiguration:
        pair = (contents.key, contents.certificates)
        return grpc.ssl_server_certificate_configuration([pair], contents.client_ca)

    used = files.contents()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        now = files.contents()
        if now is used:
            return None  # as before
        used = now
        return configuration(now)

    # Its stub does not know that None means "as before".
    return grpc.dynamic_ssl_server_credentials(configuration(used), fetch, files.asks_certificates)  # type: ignore[arg-type]
