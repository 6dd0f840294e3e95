"""Tokens that duly makes itself: `duly_ID_SECRET`. The policy holds their SHA-256 alone, so it may be read by others.

A secret has 256 random bits. Nobody can try that many, so a plain hash protects it as well as a slow one would, and
costs a microsecond at each call. The id says which hash to compare with, so that no table of secrets is searched.
"""

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta

PREFIX = "duly_"
_TOKEN = re.compile(r"duly_([0-9a-z]{8})_[A-Za-z0-9_-]{43}")


def new_token() -> str:
    """Returns a token that nobody else has."""
    return f"{PREFIX}{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def id_of(token: str) -> str:
    """Returns the id of a token, which is no secret; empty where it is none of duly's."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else ""


def digest(token: str) -> str:
    """Returns the SHA-256 of a token, in hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def matches(token: str, sha256: str) -> bool:
    """Whether the token has this SHA-256. The time that it takes says nothing about where they differ."""
    return hmac.compare_digest(digest(token), sha256)


def policy_lines(token: str, days: int | None = None) -> str:
    """Returns the table of the token for the policy file, below its principal. `days`: how long the token is good."""
    lines = ["[[principal.token]]", f'id = "{id_of(token)}"', f'sha256 = "{digest(token)}"']
    if days is not None:
        expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
        lines.append(f"expires = {expires.isoformat().replace('+00:00', 'Z')}")
    return "\n".join(lines)
