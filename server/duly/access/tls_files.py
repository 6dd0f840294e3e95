"""The files of TLS: the server's certificate and key, and the CA of its clients. They are read again when they change.

A connection is made with the files as they are then. Those that are open stay as they are, so nothing breaks when a
certificate is renewed. Files that are wrong are told, and those that were read before stay in use. Where a CA of
clients is taken away, its clients' streams go on, but their connections make no new calls (`is_withdrawn`).
"""

import datetime
import functools
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from duly.access.errors import AccessError
from duly.access.evidence import Certificate
from duly.access.files import read_file, stamp

FILE_BYTES_MAX = 1 << 20
"""A larger file of certificates, or of a key, is not used."""
WITHDRAWN_MAX = 64
"""So many CAs are remembered that were taken away. The one that went first is forgotten first."""
KNOWN_MAX = 4096
"""The certificates of so many callers are remembered to be of a CA that was taken away; then all are looked at anew."""

_log = structlog.get_logger("duly.access")


@dataclass(frozen=True, slots=True)
class TlsContents:
    """What the files hold, in PEM."""

    certificates: bytes
    """The server's own, and those between it and its CA."""
    key: bytes
    client_ca: bytes | None
    """Whose clients are let in; None: any client, without a certificate."""


class TlsFiles:
    def __init__(self, certificates: Path, key: Path, client_ca: Path | None) -> None:
        """Raises AccessError where the files cannot be used."""
        self._paths = (certificates, key, client_ca)
        self._stamps = self._look()
        self._contents = read_tls(*self._paths)
        self._withdrawn: list[x509.Certificate] = []
        """CAs of clients that were taken away since the start, the newest last."""
        self._known_withdrawn: dict[bytes, bool] = {}

    @property
    def asks_certificates(self) -> bool:
        """Whether clients must have a certificate."""
        return self._contents.client_ca is not None

    def contents(self) -> TlsContents:
        """Returns what to make the next connection with. It costs three looks at the file system where nothing has
        changed, and may be called in any thread.
        """
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                contents = read_tls(*self._paths)
            except AccessError as error:
                _log.warning("the files of TLS cannot be used, those read before stay", reason=str(error))
            else:
                self._withdraw(_authorities(self._contents), _authorities(contents))
                self._contents = contents
                _log.info("the files of TLS were read anew")
        return self._contents

    def _withdraw(self, before: list[x509.Certificate], now: list[x509.Certificate]) -> None:
        gone = [authority for authority in (*self._withdrawn, *before) if authority not in now]
        self._withdrawn = gone[-WITHDRAWN_MAX:]
        self._known_withdrawn = {}

    def is_withdrawn(self, pem: bytes) -> bool:
        """Whether a client's certificate, which was good when its connection was made, is of a CA that was taken away
        since. A certificate with others between it and its CA is taken for good, as gRPC does not show those.
        """
        self.contents()
        if not self._withdrawn:
            return False
        known = self._known_withdrawn.get(pem)
        if known is None:
            if len(self._known_withdrawn) >= KNOWN_MAX:
                self._known_withdrawn.clear()
            leaf = x509.load_pem_x509_certificate(pem)
            known = _is_of(leaf, self._withdrawn) and not _is_of(leaf, _authorities(self._contents))
            self._known_withdrawn[pem] = known
        return known

    def _look(self) -> tuple[tuple[int, ...], ...]:
        return tuple(stamp(path) for path in self._paths if path is not None)


def read_tls(certificates: Path, key: Path, client_ca: Path | None) -> TlsContents:
    """Reads and checks the files. Raises AccessError, which says what is wrong with which."""
    chain_pem, key_pem = read_file(certificates, FILE_BYTES_MAX), read_file(key, FILE_BYTES_MAX)
    chain = _certificates(certificates, chain_pem)
    try:
        private = load_pem_private_key(key_pem, None)
    except TypeError:
        raise AccessError(
            f"{key}: is protected by a password; store the key without one, readable by duly alone"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise AccessError(f"{key}: holds no private key in PEM") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise AccessError(f"{key}: is not the key of the first certificate in {certificates}")
    now = datetime.datetime.now(datetime.UTC)
    if now >= chain[0].not_valid_after_utc:
        raise AccessError(f"{certificates}: has expired on {chain[0].not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < chain[0].not_valid_before_utc:
        raise AccessError(f"{certificates}: is not valid before {chain[0].not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    ca_pem = None
    if client_ca is not None:
        ca_pem = read_file(client_ca, FILE_BYTES_MAX)
        _certificates(client_ca, ca_pem)
    return TlsContents(chain_pem, key_pem, ca_pem)


def _authorities(contents: TlsContents) -> list[x509.Certificate]:
    return [] if contents.client_ca is None else x509.load_pem_x509_certificates(contents.client_ca)


def _is_of(leaf: x509.Certificate, authorities: list[x509.Certificate]) -> bool:
    for authority in authorities:
        try:
            leaf.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return leaf in authorities


@functools.lru_cache(KNOWN_MAX)
def certificate_of(pem: bytes) -> Certificate:
    """Returns the names in a client's certificate. They are read here, as gRPC's end at a NUL and do not say of which
    kind they are: a CA that may issue DNS names alone must not be able to make a SPIFFE id of one. Raises AccessError.
    """
    try:
        shown = x509.load_pem_x509_certificate(pem)
        common = shown.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        common_name = str(common[0].value) if len(common) == 1 else ""
        try:
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names = x509.SubjectAlternativeName([])
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        others = [
            *names.get_values_for_type(x509.DNSName),
            *names.get_values_for_type(x509.RFC822Name),
            *map(str, names.get_values_for_type(x509.IPAddress)),
        ]
        expires_unix_s = shown.not_valid_after_utc.timestamp()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion):
        raise AccessError("the certificate cannot be read") from None
    all_names = (*uris, *others)
    if not all(name.isprintable() for name in (*all_names, common_name)) or any("://" in name for name in others):
        raise AccessError("the certificate has a name that is none")
    return Certificate(common_name, all_names, expires_unix_s)


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise AccessError(f"{path}: holds no certificates in PEM") from None
