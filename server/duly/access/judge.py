"""Decides who a caller is and what it may do, by the policy; without one, by where it listens and connects from.

What is presented must hold: a token that is wrong is refused, whatever else the caller has. Only a caller without any
credential is `anyone`.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import jwt

from duly.access.errors import NotAuthenticated
from duly.access.evidence import Evidence
from duly.access.key_set import KeySet
from duly.access.listeners import Listener
from duly.access.policy import Issuer, Policy, Principal, TokenEntry
from duly.access.tokens import PREFIX, id_of, matches
from duly.streams.rights import ADMIN, Right, Rights

TOKEN_CHARS_MAX = 8192
"""A longer token is refused."""
CLAIMS_KEPT_MAX = 1024
"""How many verified tokens are remembered, so that a signature is not computed at each call. The oldest is forgotten
first."""
_NO_ENTRY = TokenEntry(id="00000000", sha256="0" * 64)
"""What a token is compared with whose id nobody has, so that the time of an answer does not tell which ids exist."""

_YEAR_9999 = 253_370_764_800
"""What expires later than that never does."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Who a caller is."""

    rights: Rights
    expires_unix_s: float = 0
    """When its credential expires, and with it the call; 0: never."""


class Judge:
    def __init__(
        self, policy: Policy | None, now_unix_s: Callable[[], float] = time.time, keys: KeySet | None = None
    ) -> None:
        """`keys`: those of tokens that were known before, which are kept where their place is still the same."""
        self.policy = policy
        self._now_unix_s = now_unix_s
        self._tokens: dict[str, tuple[Principal, TokenEntry]] = {}
        self._rights: dict[str, Rights] = {}
        self._claims: OrderedDict[bytes, tuple[str, dict[str, Any]]] = OrderedDict()
        self.keys: KeySet | None = None
        if policy is None:
            return
        self._rights = {principal.name: principal.rights() for principal in policy.principal}
        self._tokens = {entry.id: (principal, entry) for principal in policy.principal for entry in principal.token}
        if policy.jwt is not None:
            place = policy.jwt.jwks
            self.keys = keys if keys is not None and keys.place == place else KeySet(place)

    async def judge(self, evidence: Evidence, listener: Listener) -> Judged:
        """Returns who the caller is. Raises NotAuthenticated."""
        judged = self._without_policy(evidence) if self.policy is None else await self._by_policy(evidence, self.policy)
        certificate = evidence.certificate
        if certificate is not None and certificate.expires_unix_s:
            # The transport looked when the connection was made, which may be long ago.
            if self._now_unix_s() >= certificate.expires_unix_s:
                raise NotAuthenticated("the certificate has expired; connect with a new one")
            expires = min(judged.expires_unix_s or certificate.expires_unix_s, certificate.expires_unix_s)
            judged = replace(judged, expires_unix_s=expires)
        if self.policy is None and listener.admin:
            return replace(judged, rights=replace(judged.rights, may=frozenset(Right)))
        if not listener.admin:
            return replace(judged, rights=replace(judged.rights, may=judged.rights.may - ADMIN))
        return judged

    def _without_policy(self, evidence: Evidence) -> Judged:
        certificate = evidence.certificate
        if certificate is not None and certificate.name:
            return Judged(Rights(certificate.name, proven=True))
        return Judged(Rights(evidence.address))

    async def _by_policy(self, evidence: Evidence, policy: Policy) -> Judged:
        if evidence.token:
            if evidence.token.startswith(PREFIX) or policy.jwt is None:
                return self._by_token(evidence.token)
            return await self._by_jwt(evidence.token, policy.jwt, policy)
        for principal in policy.principal:
            certificate, peer = evidence.certificate, evidence.unix
            if certificate is not None and any(match.fits(certificate) for match in principal.certificate):
                return Judged(self._rights[principal.name])
            if peer is not None and any(match.fits(peer) for match in principal.unix):
                return Judged(self._rights[principal.name])
            if principal.anyone:
                return Judged(replace(self._rights[principal.name], principal=f"{principal.name}@{evidence.address}"))
        shown = "no principal of the policy has this certificate" if evidence.certificate else "no credential was sent"
        raise NotAuthenticated(
            f"{shown}; send `authorization: Bearer TOKEN`, or what else the server's policy asks for"
        )

    def _by_token(self, token: str) -> Judged:
        principal, entry = self._tokens.get(id_of(token), (None, _NO_ENTRY))
        if not matches(token, entry.sha256) or principal is None:
            raise NotAuthenticated("the token is not known here; ask who runs the server for one")
        expires = entry.expires.timestamp() if entry.expires is not None else 0
        if expires and self._now_unix_s() >= expires:
            raise NotAuthenticated("the token has expired; ask who runs the server for another one")
        return Judged(self._rights[principal.name], expires)

    async def _by_jwt(self, token: str, issuer: Issuer, policy: Policy) -> Judged:
        claims = await self._verified(token, issuer)
        subject, scopes = str(claims["sub"]), _scopes(claims)
        expires = min(int(claims["exp"]), _YEAR_9999) + issuer.leeway_s
        if self._now_unix_s() >= expires:
            raise NotAuthenticated("the token has expired; get a new one from its issuer")
        for principal in policy.principal:
            for match in principal.jwt:
                if fnmatchcase(subject, match.subject) and scopes.issuperset(match.scope.split()):
                    return Judged(self._rights[principal.name], expires)
        raise NotAuthenticated("the token is good, but no principal of the policy has its subject and scopes")

    async def _verified(self, token: str, issuer: Issuer) -> dict[str, Any]:
        """Returns the claims of a token whose signature, issuer, audience and times are right. Raises
        NotAuthenticated.
        """
        assert self.keys is not None
        if len(token) > TOKEN_CHARS_MAX:
            raise NotAuthenticated(f"the token is longer than {TOKEN_CHARS_MAX} characters")
        if (known := self._claims.get(self._seen(token))) is not None:
            key_id, claims = known
            if await self.keys.key(key_id) is not None and self._seen(token) in self._claims:
                return claims  # it was verified by the keys of now: only the times may have changed
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid", "")
            if algorithm not in issuer.algorithms:
                allowed = ", ".join(issuer.algorithms)
                raise NotAuthenticated(f"the token is signed by an algorithm that is not taken; there are {allowed}")
            key_id = key_id if isinstance(key_id, str) else "?"
            key = await self.keys.key(key_id)
            if key is None:
                raise NotAuthenticated("the token is signed by a key that its issuer does not list")
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=issuer.issuer,
                audience=issuer.audience,
                leeway=issuer.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise NotAuthenticated("the token has expired; get a new one from its issuer") from None
        except jwt.ImmatureSignatureError:
            raise NotAuthenticated("the token is not good yet; are the clocks right?") from None
        except jwt.InvalidIssuerError:
            raise NotAuthenticated("the token is of another issuer") from None
        except jwt.InvalidAudienceError:
            raise NotAuthenticated("the token is for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise NotAuthenticated(f"the token lacks the claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise NotAuthenticated("the token is no JWT of the issuer") from None
        self._claims[self._seen(token)] = key_id, claims
        if len(self._claims) > CLAIMS_KEPT_MAX:
            self._claims.popitem(last=False)
        return claims

    def _seen(self, token: str) -> bytes:
        """Returns by what a token is remembered that the keys of now have verified."""
        reads = self.keys.reads if self.keys is not None else 0
        return hashlib.sha256(f"{reads}:{token}".encode("ascii", "replace")).digest()


def _scopes(claims: dict[str, Any]) -> set[str]:
    """The scopes of a token: `scope` is a text with spaces (RFC 8693), `scp` a list or a text, as some issuers have."""
    scopes: list[object] = []
    for claim in (claims.get("scope"), claims.get("scp")):
        scopes += claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else ()
    return {scope for scope in scopes if isinstance(scope, str)}
