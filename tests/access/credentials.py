"""What callers prove themselves with, in tests: keys, JWTs, tokens, certificates, and a policy that knows them."""

import json
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from duly.access.dev_certificates import Authority, Pair
from duly.access.tokens import new_token, policy_lines

ISSUER, AUDIENCE = "https://issuer.test", "duly"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def jwks(*names: str) -> str:
    keys = []
    for name in names:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key(name).public_key()))
        keys.append(public | {"kid": name, "use": "sig", "alg": "ES256"})
    return json.dumps({"keys": keys})


def signed(signer: str = "k1", *, kid: str | None = None, **claims: Any) -> str:
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "camera-1", "exp": time.time() + 7200} | claims
    stated = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(stated, key(signer), algorithm="ES256", headers={"kid": kid or signer})


@cache
def ca(name: str) -> Authority:
    return Authority(name)


def issue(authority: str, *names: str, expired: bool = False, common_name: str = "") -> Pair:
    return ca(authority).issue(*names, common_name=common_name, expires=LONG_AGO if expired else None)


def channel_credentials(cert: Pair | None, server_ca: str = "ca") -> grpc.ChannelCredentials:
    pem = ca(server_ca).certificate
    if cert is None:
        return grpc.ssl_channel_credentials(pem)
    return grpc.ssl_channel_credentials(pem, cert.key, cert.certificate)


def write_pair(folder: Path, cert: Pair, name: str = "server") -> tuple[Path, Path]:
    """Writes the certificate and its key as those do who renew them: each file is put in place as a whole."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    for path, contents in zip(paths, (cert.certificate, cert.key), strict=True):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(contents)
        fresh.rename(path)
    return paths


RIGHT, OTHER, EXPIRED = new_token(), new_token(), new_token()


def token_table(token: str, expires: str = "") -> str:
    return policy_lines(token) + (f"\nexpires = {expires}" if expires else "")


def policy(folder: Path, more: str = "") -> Path:
    """Writes the policy: `right` may do everything with every model, `other` nothing at all, and `camera` what sensors
    do with the model double.
    """
    keys = folder / "jwks.json"
    keys.write_text(jwks("k1"), encoding="utf-8")
    everything = '["infer", "read", "feedback", "feedback-any", "load", "unload", "activate", "drain", "dump", "log"]'
    text = f"""
[jwt]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "{keys}"
leeway_s = 1

[[principal]]
name = "right"
may = {everything}
classes = ["CRITICAL", "STANDARD", "BEST_EFFORT"]
jwt = [{{ subject = "admin", scope = "duly.all" }}]
certificate = [{{ spiffe = "spiffe://vehicle/admin/*" }}]
{token_table(RIGHT)}
{token_table(EXPIRED, "2020-01-01T00:00:00Z")}

[[principal]]
name = "other"
may = []
jwt = [{{ subject = "nobody" }}]
certificate = [{{ san = "other.test" }}]
{token_table(OTHER)}

[[principal]]
name = "camera"
models = ["dou*"]
jwt = [{{ subject = "camera-*" }}]
certificate = [{{ spiffe = "spiffe://vehicle/camera/*" }}]
unix = [{{ uid = 4242 }}]
{more}
"""
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path
