"""The policy file: who callers are, and what each of them may do. It is TOML:

    [[principal]]
    name = "front camera"
    models = ["lane-*", "yolo"]                # patterns; default: all
    classes = ["CRITICAL", "STANDARD"]         # default: STANDARD, BEST_EFFORT
    may = ["infer", "read"]                    # default: these two
    quota = { streams_max = 4, frames_per_s_max = 120 }
    certificate = [{ spiffe = "spiffe://vehicle/camera/front" }]

A principal has one or more kinds of credential: `token`, `jwt`, `certificate`, `unix`; or `anyone = true`, for callers
who show none. Any one of them will do. Principals are looked at in their order, and the first that fits is the caller.
"""

import difflib
import re
import tomllib
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from duly.access.errors import AccessError
from duly.access.evidence import Certificate, UnixPeer
from duly.access.files import read_file
from duly.core.types import StreamClass
from duly.streams.rights import Quota, Right, Rights

FILE_BYTES_MAX = 4 * 2**20
"""A larger policy is not used."""
PROBLEMS_MAX = 20
"""So many problems of one file are named, and the others are counted."""

ClassName = Literal["CRITICAL", "STANDARD", "BEST_EFFORT"]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a key pair alone: with a shared secret, whoever may check tokens could make them."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TokenEntry(_Table):
    """A token of duly's own, as `duly token new` prints it."""

    id: Annotated[str, Field(pattern=r"^[0-9a-z]{8}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: datetime | None = None
    """When it is good no more, with its offset from UTC."""

    @field_validator("expires")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("should have its offset from UTC, such as 2030-01-31T12:00:00Z")
        return value


class JwtMatch(_Table):
    """Tokens of the issuer that say all of this."""

    subject: Annotated[str, Field(min_length=1)]
    """Pattern of the claim `sub`."""
    scope: str = ""
    """Scopes that the token must have, separated by spaces."""


class CertificateMatch(_Table):
    """Certificates whose name fits. Exactly one of the three is stated; all are patterns."""

    spiffe: Annotated[str, Field(pattern=r"^spiffe://")] = ""
    san: str = ""
    """Fits any subject alternative name."""
    cn: str = ""
    """Fits the subject's common name."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(map(bool, (self.spiffe, self.san, self.cn))) != 1:
            raise ValueError("should state one of spiffe, san and cn")
        return self

    def fits(self, certificate: Certificate) -> bool:
        if self.spiffe:
            return _path_fits(certificate.spiffe_id, self.spiffe)
        if self.san:
            # A pattern such as *.camera.local is none of URIs or addresses of mail, which may end in anything.
            kinds = "://" in self.san, "@" in self.san
            names = [name for name in certificate.names if ("://" in name, "@" in name) == kinds]
            return any(fnmatchcase(name, self.san) for name in names)
        return fnmatchcase(certificate.common_name, self.cn)


class UnixMatch(_Table):
    """Processes on this machine that connect over a UNIX socket, by the user and group that they run as."""

    uid: Annotated[int, Field(ge=0)] | None = None
    gid: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.uid is None and self.gid is None:
            raise ValueError("should state uid, gid, or both")
        return self

    def fits(self, peer: UnixPeer) -> bool:
        return self.uid in (None, peer.uid) and self.gid in (None, peer.gid)


class QuotaTable(_Table):
    streams_max: Annotated[int, Field(ge=0)] = 0
    frames_per_s_max: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    bytes_per_s_max: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    lane_share_max: Annotated[float, Field(ge=0, le=1)] = 0


class Principal(_Table):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    models: tuple[str, ...] = ("*",)
    classes: tuple[ClassName, ...] = ("STANDARD", "BEST_EFFORT")
    may: tuple[Right, ...] = (Right.INFER, Right.READ)
    quota: QuotaTable = QuotaTable()
    token: tuple[TokenEntry, ...] = ()
    jwt: tuple[JwtMatch, ...] = ()
    certificate: tuple[CertificateMatch, ...] = ()
    unix: tuple[UnixMatch, ...] = ()
    anyone: bool = False

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("should have no characters that cannot be printed")
        return value

    @model_validator(mode="after")
    def _someone(self) -> Self:
        kinds = (self.token, self.jwt, self.certificate, self.unix)
        if not any(kinds) and not self.anyone:
            raise ValueError("should have a credential: token, jwt, certificate or unix; or anyone = true")
        if any(kinds) and self.anyone:
            raise ValueError("should have either credentials or anyone = true, not both")
        return self

    def rights(self) -> Rights:
        return Rights(
            principal=self.name,
            proven=not self.anyone,
            may=frozenset(self.may),
            models=self.models,
            classes=frozenset(StreamClass[name] for name in self.classes),
            quota=Quota(**self.quota.model_dump()),
        )


class Issuer(_Table):
    """Whose JWTs are taken."""

    issuer: Annotated[str, Field(min_length=1)]
    """The claim `iss`, to the letter."""
    audience: Annotated[str, Field(min_length=1)]
    """What the claim `aud` must hold."""
    jwks: Annotated[str, Field(min_length=1)]
    """Where its public keys are: the path of a file, an https:// URL, or an http:// URL of this machine."""
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far the clocks may be apart."""

    @field_validator("jwks")
    @classmethod
    def _safe(cls, value: str) -> str:
        if re.match(r"(?i)[a-z][a-z0-9+.-]*:", value) and not (
            value.startswith("https://") or re.match(r"http://(127\.[0-9.]+|localhost|\[::1\])(:[0-9]+)?/", value)
        ):
            raise ValueError("should be the path of a file, an https:// URL, or an http:// URL of this machine")
        return value


class Policy(_Table):
    jwt: Issuer | None = None
    principal: tuple[Principal, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [] if self.principal else ["principal: there is none: without a [[principal]] nobody is let in"]
        names = [principal.name for principal in self.principal]
        problems += [f"principal: the name {name!r} stands twice" for name in _twice(names)]
        ids = [token.id for principal in self.principal for token in principal.token]
        problems += [f"principal: the token id {id_!r} stands twice" for id_ in _twice(ids)]
        if self.jwt is None and any(principal.jwt for principal in self.principal):
            problems.append("jwt: is missing, but principals have jwt: [jwt] says who issues them")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def asks_unix(self) -> bool:
        """Whether users of UNIX sockets are told apart."""
        return any(principal.unix for principal in self.principal)

    @property
    def asks_credentials(self) -> bool:
        """Whether nobody is let in without any."""
        return not any(principal.anyone for principal in self.principal)


def read_policy(path: Path) -> Policy:
    """Reads a policy file. Raises AccessError, which names all its problems."""
    contents = read_file(path, FILE_BYTES_MAX)
    try:
        tables = tomllib.loads(contents.decode("utf-8-sig"))
        # TOML has lists where pydantic's strict mode wants tuples, and names where it wants enumerations.
        return Policy.model_validate(_frozen(tables))
    except UnicodeDecodeError as error:
        raise AccessError(f"{path}: not valid TOML: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise AccessError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise AccessError(f"{path}: its tables or lists lie too deep within one another") from None
    except ValidationError as error:
        raise AccessError("\n".join(f"{path}: {problem}" for problem in _problems(error, tables))) from None


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(part) for part in value)
    if isinstance(value, dict):
        return {
            key: tuple(_RIGHTS.get(part, part) if isinstance(part, str) else part for part in inner)
            if key == "may" and isinstance(inner, list)
            else _frozen(inner)
            for key, inner in value.items()
        }
    return value


_RIGHTS = {right.value: right for right in Right}


def _problems(error: ValidationError, tables: dict[str, Any]) -> list[str]:
    found = []
    for detail in error.errors(include_url=False):
        place = _place(detail["loc"], tables)
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if detail["type"] == "extra_forbidden":
            found.append(
                f"{place}: there is no such key{_likely(str(detail['loc'][-1]), _keys_at(detail['loc'][:-1]))}"
            )
        elif detail["type"] == "is_instance_of":
            rights = list(_RIGHTS)
            got = repr(detail["input"])
            found.append(
                f"{place}: should be one of {', '.join(rights)}, got {got}{_likely(str(detail['input']), rights)}"
            )
        elif detail["type"] == "string_pattern_mismatch" and "token" in detail["loc"]:
            found.append(
                f"{place}: should be what `duly token new` or `duly token hash` prints, got {detail['input']!r}"
            )
        elif detail["type"] == "missing":
            found.append(f"{place}: is missing")
        elif detail["type"] == "value_error":
            found += [f"{place}: {line}" if place else line for line in message.splitlines()]
        elif detail["type"] in ("tuple_type", "dict_type", "model_type"):
            keys = ".".join(part for part in detail["loc"] if isinstance(part, str))
            kind = f"a list, such as [[{keys}]] or [ ]" if detail["type"] == "tuple_type" else "a table"
            found.append(f"{place}: should be {kind}")
        else:
            got = repr(detail["input"]) if isinstance(detail["input"], str | int | float) else "something else"
            words = re.findall(r"'([^']+)'", message)
            hint = _likely(str(detail["input"]), words) if detail["type"] in ("literal_error", "enum") else ""
            found.append(f"{place}: {message}, got {got}{hint}")
    if len(found) > PROBLEMS_MAX:
        found[PROBLEMS_MAX:] = [f"and {len(found) - PROBLEMS_MAX} problems more"]
    return found


def _place(location: tuple[int | str, ...], tables: dict[str, Any]) -> str:
    """Formats a place like `principal[0] "camera".quota.streams_max`."""
    place = ""
    here: Any = tables
    for part in location:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            here = {}
        if isinstance(part, int):
            name = here.get("name") if isinstance(here, dict) else None
            place += f"[{part}]" + (f" {name!r}" if isinstance(name, str) else "")
        else:
            place += f".{part}" if place else part
    return place


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    table: type[BaseModel] = Policy
    for part in location:
        if isinstance(part, str):
            field = table.model_fields.get(part)
            inner = _tables_in(field.annotation) if field is not None else []
            if not inner:
                return []
            table = inner[0]
    return list(table.model_fields)


def _tables_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for argument in get_args(annotation) for table in _tables_in(argument)]


def _likely(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1) or difflib.get_close_matches(word.upper(), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _twice(words: list[str]) -> list[str]:
    return sorted({word for word in words if words.count(word) > 1})


def _path_fits(name: str, pattern: str) -> bool:
    """Whether a SPIFFE id fits a pattern whose `*` never spans a `/`: one part stands for no part below it."""
    parts, patterns = name.split("/"), pattern.split("/")
    return bool(name) and len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
