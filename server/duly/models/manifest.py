"""The manifest of a version: `sha256sums` in its folder, as `sha256sum` writes it, and its signature beside it.

    cd NAME/VERSION && sha256sum *.onnx ../model.toml > sha256sums
    ssh-keygen -Y sign -f KEY -n file sha256sums            (makes sha256sums.sig)

A line of it names a file of the version's folder, or with `../` one beside model.toml. Whoever reads a file of the
version looks it up here before the file is used: one that is not listed, or holds something else, is refused. The
signature is of the kind that OpenSSH makes (PROTOCOL.sshsig), with an Ed25519 key and the namespace `file`.
"""

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MANIFEST_FILE = "sha256sums"
SIGNATURE_FILE = "sha256sums.sig"
MANIFEST_BYTES_MAX = 4 << 20
"""A version whose sha256sums is larger is not loaded."""
SIGNATURE_BYTES_MAX = 16 << 10
"""A version whose sha256sums.sig is larger is not loaded."""
NAMESPACE = b"file"

_LINE = re.compile(r"(\\?)([0-9A-Fa-f]{64}) [ *](.+)")
_TAGGED = re.compile(r"(\\?)SHA256 \((.+)\) = ([0-9A-Fa-f]{64})")
_KIND = b"ssh-ed25519"
_HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_ARMOUR = re.compile(rb"-----BEGIN SSH SIGNATURE-----\s+([A-Za-z0-9+/=\s]+)-----END SSH SIGNATURE-----\s*")
_BEGINNING = b"SSHSIG" + struct.pack(">I", 1)
_NO_SIGNATURE = (
    f"{SIGNATURE_FILE} is no signature by an Ed25519 key; make one: ssh-keygen -Y sign -f KEY -n file {MANIFEST_FILE}"
)
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64


class ManifestError(Exception):
    """A manifest, its signature or a key is not what it must be. The text says what, without paths of the server."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the files of a version must hold."""

    digests: Mapping[str, str]
    """SHA-256 by name, relative to the version's folder."""
    file: str = MANIFEST_FILE
    """What lists them, in the folder of the version."""
    advice: str = "list every file of the version there"

    def check(self, name: str, sha256: str) -> None:
        """Raises ManifestError unless the file `name` is listed with this digest."""
        listed = self.digests.get(name)
        if listed is None:
            raise ManifestError(f"is not listed in {self.file}; {self.advice}")
        if listed != sha256:
            raise ManifestError(
                f"is not what {self.file} lists: its SHA-256 begins with {sha256[:12]}, listed is {listed[:12]}"
            )


def read_manifest(folder: Path, mode: str, keys: Iterable[str]) -> Manifest | None:
    """Reads the manifest of a version, as the setting `manifests` asks for it; None: nothing is to be checked.

    Raises ManifestError where there must be one and is none, where it makes no sense, or where it must be signed and is
    not, by one of `keys`.
    """
    if mode == "off":
        return None
    text = read_small(folder / MANIFEST_FILE, MANIFEST_BYTES_MAX)
    if text is None:
        if mode == "check":
            return None
        others = [name for name in ("SHA256SUMS", "sha256sum.txt", "SHA256SUMS.txt") if (folder / name).exists()]
        advice = f"; rename {others[0]}" if others else ""
        raise ManifestError(f"{MANIFEST_FILE} is missing, and manifests is {mode}{advice}")
    if mode == "signed":
        signature = read_small(folder / SIGNATURE_FILE, SIGNATURE_BYTES_MAX)
        if signature is None:
            raise ManifestError(f"{SIGNATURE_FILE} is missing, and manifests is signed")
        check_signature(text, signature, keys)
    return Manifest(parse_manifest(text))


def parse_manifest(text: bytes) -> dict[str, str]:
    """Returns the digests by name. Raises ManifestError, which says the line."""
    digests: dict[str, str] = {}
    try:
        lines = text.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{MANIFEST_FILE}: byte {error.start} is not UTF-8") from None
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        if plain := _LINE.fullmatch(line):
            escaped, digest, name = plain.groups()
        elif tagged := _TAGGED.fullmatch(line):
            escaped, name, digest = tagged.groups()
        else:
            raise ManifestError(f"{MANIFEST_FILE}: line {number} is not DIGEST, two blanks and a name")
        if escaped:
            name = re.sub(r"\\([nr\\])", lambda found: {"n": "\n", "r": "\r", "\\": "\\"}[found[1]], name)
        path = PurePosixPath(name)
        inside = path.parts[1:] if path.parts[:1] == ("..",) else path.parts
        if path.is_absolute() or ".." in inside or not inside or "\0" in name:
            raise ManifestError(
                f"{MANIFEST_FILE}: line {number} names a file that is neither in the version's folder nor beside "
                "model.toml; write names relative to the version's folder"
            )
        if digests.setdefault(str(path), digest.lower()) != digest.lower():
            raise ManifestError(f"{MANIFEST_FILE}: line {number} lists a file again, with another digest")
    return digests


def check_keys(keys: Iterable[str]) -> list[bytes]:
    """Returns the Ed25519 public keys of lines as OpenSSH writes them (id_ed25519.pub, authorized_keys,
    allowed_signers). Raises ManifestError where there is none, or a line is none.
    """
    found = []
    for number, line in enumerate(keys, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            blob = base64.b64decode(words[words.index(_KIND.decode()) + 1], validate=True)
            kind, key = _strings(blob, 2)[0]
        except (ValueError, IndexError):
            raise ManifestError(f"line {number} is no Ed25519 public key; write ssh-ed25519 and the key") from None
        if kind != _KIND or len(key) != _KEY_BYTES:
            raise ManifestError(f"line {number} is no Ed25519 public key; make one: ssh-keygen -t ed25519")
        found.append(key)
    if not found:
        raise ManifestError("there is no key; write one in each line, as ssh-keygen -t ed25519 prints it (*.pub)")
    return found


def check_signature(signed: bytes, signature: bytes, keys: Iterable[str]) -> None:
    """Raises ManifestError unless `signature` is one of `signed` by one of `keys`."""
    from cryptography.exceptions import InvalidSignature  # only who has signed models needs the package
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    trusted = check_keys(keys)
    try:
        armoured = _ARMOUR.fullmatch(signature.strip())
        blob = base64.b64decode(b"".join(armoured[1].split()), validate=True) if armoured else b""
        (public, namespace, reserved, hashed, made), rest = _strings(blob[len(_BEGINNING) :], 5)
        (kind, key), more = _strings(public, 2)
        (of_kind, value), end = _strings(made, 2)
    except (ValueError, binascii.Error):
        raise ManifestError(_NO_SIGNATURE) from None
    whole = blob.startswith(_BEGINNING) and not (rest or more or end)
    known = kind == of_kind == _KIND and hashed in _HASHES
    if not whole or not known or len(key) != _KEY_BYTES or len(value) != _SIGNATURE_BYTES:
        raise ManifestError(_NO_SIGNATURE)
    if namespace != NAMESPACE:
        raise ManifestError(f"{SIGNATURE_FILE} was made for another use; sign with ssh-keygen -Y sign -n file")
    if key not in trusted:
        raise ManifestError(f"{SIGNATURE_FILE} is by a key that is not among manifest_keys")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(value, _to_sign(signed, namespace, reserved, hashed))
    except InvalidSignature:
        raise ManifestError(f"{SIGNATURE_FILE} does not fit {MANIFEST_FILE}: one of them was changed") from None


def sign(text: bytes, private_key: bytes, passphrase: bytes | None) -> bytes:
    """Returns what SIGNATURE_FILE is to hold. Raises ManifestError where the key is none that can be used."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    try:
        key = load_ssh_private_key(private_key, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ManifestError(f"the private key cannot be read: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ManifestError("the private key is not of Ed25519; make one: ssh-keygen -t ed25519")
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    value = key.sign(_to_sign(text, NAMESPACE, b"", b"sha512"))
    blob = _BEGINNING + _packed(_packed(_KIND, public), NAMESPACE, b"", b"sha512")
    lines = base64.b64encode(blob + _packed(_packed(_KIND, value))).decode()
    wrapped = "\n".join(lines[at : at + 70] for at in range(0, len(lines), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{wrapped}\n-----END SSH SIGNATURE-----\n".encode()


def _to_sign(text: bytes, namespace: bytes, reserved: bytes, hashed: bytes) -> bytes:
    return b"SSHSIG" + _packed(namespace, reserved, hashed, _HASHES[hashed](text).digest())


def _packed(*strings: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(each)) + each for each in strings)


def _strings(blob: bytes, count: int) -> tuple[list[bytes], bytes]:
    """Takes `count` strings, each after its length, off the beginning. Returns them and the rest. Raises ValueError."""
    found = []
    for _ in range(count):
        if len(blob) < 4:
            raise ValueError("cut off")
        (length,) = struct.unpack_from(">I", blob)
        if length > len(blob) - 4:
            raise ValueError("cut off")
        found.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return found, blob


def read_small(path: Path, bytes_max: int) -> bytes | None:
    """Reads a small file; None: it is not there. A pipe or device in its place holds nobody up. Raises ManifestError
    where it cannot be read or is larger.
    """
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > bytes_max:
            raise ManifestError(f"{path.name} is no file of at most {bytes_max:,} bytes")
        with path.open("rb") as file:
            return file.read(bytes_max)
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from None
