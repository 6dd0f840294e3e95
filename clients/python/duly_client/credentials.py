"""What a client proves itself with: the files of TLS, and a bearer token. Files are read again when they change.

gRPC's channels keep the certificate that they began with. So when the files change, the next call gets a channel of its
own, and the one before is closed when its last call has ended: streams go on, and open again with what is new.
"""

import contextlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from duly_client.proxy import is_local

TOKEN_BYTES_MAX = 16 * 1024
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS with a server. All paths are of PEM files."""

    ca: str | os.PathLike[str] | None = None
    """The CA that the server's certificate must be of; None: those that the system trusts."""
    cert: str | os.PathLike[str] | None = None
    """The client's own certificate, where the server asks for one."""
    key: str | os.PathLike[str] | None = None
    """Its private key."""
    server_name: str = ""
    """The name that the server's certificate must have; empty: the host of the target."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("tls: cert and key go together; state both or neither")

    @property
    def stamps(self) -> tuple[tuple[int, ...], ...]:
        """What changes when one of the files does."""
        return tuple(_stamp(path) for path in (self.ca, self.cert, self.key) if path is not None)

    def read(self) -> grpc.ChannelCredentials:
        """Returns credentials with what the files hold now. Raises ValueError where they cannot be used."""
        ca, cert, key = (None if path is None else _read(path) for path in (self.ca, self.cert, self.key))
        if ca is not None:
            try:
                ssl.create_default_context(cadata=ca.decode("ascii"))
            except (ssl.SSLError, ValueError):
                raise ValueError(f"tls: {self.ca}: holds no certificates in PEM") from None
        if self.cert is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.cert, self.key, lambda: b"")
            except (ssl.SSLError, OSError):
                text = f"tls: {self.cert} and {self.key} are no certificate and its private key, in PEM and open"
                raise ValueError(text) from None
        return grpc.ssl_channel_credentials(ca, key, cert)

    def options(self) -> tuple[tuple[str, str], ...]:
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


class Token:
    """A bearer token, from a text or from a file that is read again when it changes."""

    def __init__(self, text: str | None, file: str | os.PathLike[str] | None) -> None:
        """Raises ValueError where there is no token."""
        self._file = file
        self._stamp: tuple[int, ...] = ()
        self._text = _checked(text, "token") if text is not None else ""
        if file is not None:
            if text is not None:
                raise ValueError("token and token_file: state one of them")
            self._stamp = _stamp(file)
            self._text = _from_file(file)

    def now(self) -> str:
        """Returns the token as it is now. While its file cannot be read, it is the last one that could."""
        if self._file is not None and (stamp := _stamp(self._file)) != self._stamp:
            with contextlib.suppress(ValueError):  # it is being replaced
                self._text, self._stamp = _from_file(self._file), stamp
        return self._text


def check_clear_text(target: str, allowed: bool) -> None:
    """Raises ValueError where a token would cross a network in clear text, unless that is wanted."""
    if not allowed and not is_local(target):
        raise ValueError(
            f"the token would cross the network to {target} in clear text: use tls, or say token_in_clear_text=True"
        )


def tls_words(details: str, encrypted: bool) -> str:
    """Returns what an error on the way to a server means where TLS is at fault; "" where it is not."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        if "expired" in details:
            return "the server's certificate has expired"
        if "not yet valid" in details:
            return "the server's certificate is not valid yet; are the clocks right?"
        return "the server's certificate is of a CA that this client does not trust (tls: ca)"
    if re.search(r"(?i)hostname verification|peer name \S+ is not in peer cert", details):
        return "the server's certificate is for another name than the target's host (tls: server_name)"
    if "WRONG_VERSION_NUMBER" in details:
        return "the server does not speak TLS there; leave tls out"
    # A connection that is lost later is no fault of TLS.
    if "failed to connect" in details and re.search(r"Socket closed|[Cc]onnection reset|recvmsg", details):
        if encrypted:
            return "the server may ask for a client certificate, of its CA and not expired (tls: cert, key)"
        return "the server may speak TLS there (tls)"
    return ""


def _from_file(file: str | os.PathLike[str]) -> str:
    return _checked(_read(file)[: TOKEN_BYTES_MAX + 1].decode("ascii", "replace").strip(), f"token_file: {file}")


def _checked(text: str, place: str) -> str:
    """Returns the token. Raises ValueError, which never shows it."""
    if len(text) > TOKEN_BYTES_MAX or not _TOKEN.fullmatch(text):
        raise ValueError(f"{place}: should be one token, without spaces and other signs than ASCII has")
    return text


def _stamp(path: str | os.PathLike[str]) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{os.fspath(path)}: can't be read: {error.strerror}") from None
