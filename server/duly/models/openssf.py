"""Signatures of OpenSSF's model-signing: `model.sig` in the folder of a version, with the digests that it is for.

    model_signing sign key NAME --private_key KEY --signature NAME/VERSION/model.sig

The library checks who signed; it comes with the extra `model-signing`. What the files hold is compared where they are
read, as with sha256sums: the library would read them once more, and what is checked would not be what is used.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from duly.models.manifest import MANIFEST_BYTES_MAX, Manifest, ManifestError, read_small

BUNDLE_FILE = "model.sig"
_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_HOW = f"model_signing sign key NAME --private_key KEY --signature NAME/VERSION/{BUNDLE_FILE}"


def split_keys(text: str) -> tuple[str, ...]:
    """Returns the public keys of a file in PEM, each as a text of its own.

    Raises ManifestError where there is none, where one is of a kind that model-signing does not take, or where the
    library is not installed.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if missing := [name for name in ("model_signing", "OpenSSL") if importlib.util.find_spec(name) is None]:
        raise ManifestError(
            f"manifests is model-signing, and the module {missing[0]} is not installed: "
            "pip install 'duly[model-signing]'"
        )
    found = tuple(_KEY.findall(text))
    if not found or len(found) != text.count("-----BEGIN"):
        raise ManifestError(
            "manifests is model-signing, which takes public keys in PEM and nothing else; "
            "write one: openssl ec -in KEY -pubout"
        )
    for number, pem in enumerate(found, start=1):
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ManifestError(f"key {number} is no public key in PEM") from None
        if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            raise ManifestError(f"key {number} is not on a curve that model-signing takes: {', '.join(_CURVES)}")
    return found


def read_bundle(folder: Path, version: str, keys: Iterable[str]) -> Manifest:
    """Reads and verifies the signature of a version in its folder. `version`: its name in the model's folder, which is
    what was signed; the folder of the version alone may be signed where there is no model.toml.

    Raises ManifestError where there is no signature by one of `keys`, or none with a SHA-256 of each file.
    """
    bundle = read_small(folder / BUNDLE_FILE, MANIFEST_BYTES_MAX)
    if bundle is None:
        raise ManifestError(f"{BUNDLE_FILE} is missing, and manifests is model-signing; make it: {_HOW}")
    for key in keys:
        signed = _signed_digests(bundle, key)
        if signed is not None:
            break
    else:
        raise ManifestError(f"{BUNDLE_FILE} is no signature by one of manifest_keys; made is one by: {_HOW}")
    if other := next((algorithm for algorithm, _ in signed.values() if algorithm != "sha256"), None):
        raise ManifestError(f"{BUNDLE_FILE} has digests of the kind {other[:40]}; sign with SHA-256 of whole files")
    inside = f"{version}/"
    # the model's folder was signed, even where it has nothing of this version
    whole = any(name.rpartition("/")[0].partition("/")[0].isdecimal() for name in signed)
    digests = {
        name.removeprefix(inside) if not whole or name.startswith(inside) else f"../{name}": digest
        for name, (_, digest) in signed.items()
    }
    return Manifest(digests, BUNDLE_FILE, "sign the model's folder, when all files are in it")


def _signed_digests(bundle: bytes, key: str) -> dict[str, tuple[str, str]] | None:
    """Returns kind and digest of each file by name, if `key` signed them; else None."""
    from model_signing import hashing, manifest, verifying

    taken: dict[str, tuple[str, str]] = {}

    class Taken(manifest.Manifest):  # type: ignore[misc]
        """Stands for the files, and takes down what they would be compared with."""

        def __eq__(self, signed: Any) -> bool:
            for each in signed.resource_descriptors():
                taken[each.identifier] = each.digest.algorithm, each.digest.digest_hex
            return True

        __hash__ = None  # type: ignore[assignment]

    class NothingRead(hashing.Config):  # type: ignore[misc]
        """Is asked for what the files hold once the signature is known to be right."""

        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Taken:
            kind = manifest.SerializationType.from_args({"method": "files", "hash_type": "sha256", "allow_symlinks": 0})
            return Taken("", (), kind)

    def verify(bundle_file: str) -> None:
        def with_key(key_file: str) -> None:
            config = verifying.Config().use_elliptic_key_verifier(public_key=key_file)
            config.set_hashing_config(NothingRead()).verify(Path(), bundle_file)

        _as_file(key.encode(), with_key)

    try:
        _as_file(bundle, verify)
    except Exception:  # whatever the library says of bytes of any kind, they are no signature by this key
        return None
    return taken


def _as_file(data: bytes, use: Callable[[str], None]) -> None:
    """Gives `use` the name of a file that holds `data`, as the library reads nothing else. It lies in memory: what is
    verified is what was read, and a confined worker needs no folder for it.
    """
    with open(os.memfd_create("duly", os.MFD_CLOEXEC), "w+b") as file:
        file.write(data)
        file.flush()
        use(f"/proc/self/fd/{file.fileno()}")
