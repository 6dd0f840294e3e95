"""The public keys of the issuer of JWTs: a JWKS from a file or a URL, read off the event loop and kept.

A token that names an unknown key makes the keys be read again, at most once in `REFRESH_SECONDS_MIN`, so that an
issuer may turn its keys at any time, and nobody can make the server fetch as often as he likes.
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import jwt
import structlog

from duly.access.errors import AccessError
from duly.access.files import read_file

REFRESH_SECONDS_MIN = 10.0
AGE_SECONDS_MAX = 300.0
"""Keys that are older are read again when they are next used, so that one that was withdrawn does not stay."""
FETCH_SECONDS_MAX = 5.0
"""A server of keys that answers later is given up, and the keys of before stay."""
BYTES_MAX = 1 << 20
"""A set of keys that is larger is not used."""
KEYS_MAX = 256
"""A set of more keys is not used."""

_log = structlog.get_logger("duly.access")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The place of keys is a promise: whoever can redirect could name other keys."""

    def redirect_request(self, *args: Any) -> None:
        return None


class KeySet:
    def __init__(self, place: str) -> None:
        """`place`: path or URL of the JWKS."""
        self.place = place
        self.reads = 0
        """How often the keys were read, so that what was verified by earlier ones is not trusted."""
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at_s = -AGE_SECONDS_MAX
        self._tried_at_s = -REFRESH_SECONDS_MIN
        self._reading: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        """Returns the key of that id; None: there is none. An empty id means the only key, where there is but one."""
        now_s = time.monotonic()
        found = self._find(key_id)
        if found is None or now_s - self._read_at_s > AGE_SECONDS_MAX:
            await self._refresh(now_s)
            found = self._find(key_id)
        return found

    async def start(self) -> None:
        """Reads the keys of a file for the first time, which raises AccessError where there are none. Where they are
        behind a URL, an issuer that is away must not keep the server from starting.
        """
        if "://" in self.place:
            await self.refresh()
        else:
            self._take(await asyncio.to_thread(read_keys, self.place))

    async def refresh(self) -> None:
        """Reads the keys now, whenever they were last read."""
        self._tried_at_s = -REFRESH_SECONDS_MIN
        await self._refresh(time.monotonic())

    def _find(self, key_id: str) -> jwt.PyJWK | None:
        if not key_id:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def _refresh(self, now_s: float) -> None:
        if self._reading is None or self._reading.done():
            if now_s - self._tried_at_s < REFRESH_SECONDS_MIN:
                return
            self._tried_at_s = now_s
            self._reading = asyncio.create_task(self._read())
        await asyncio.wait([self._reading], timeout=FETCH_SECONDS_MAX)

    async def _read(self) -> None:
        try:
            keys = await asyncio.to_thread(read_keys, self.place)
        except AccessError as error:
            _log.warning("the keys of tokens can't be read, those known stay", reason=str(error))
            return
        self._take(keys)

    def _take(self, keys: dict[str, jwt.PyJWK]) -> None:
        self._keys, self._read_at_s = keys, time.monotonic()
        self.reads += 1


def read_keys(place: str) -> dict[str, jwt.PyJWK]:
    """Reads a JWKS and returns its keys for signatures by their ids. Raises AccessError. It blocks."""
    try:
        if "://" in place:
            # An http:// URL is of this machine, and no proxy of the environment may answer in its place.
            proxies = [urllib.request.ProxyHandler({})] if place.startswith("http://") else []
            opener = urllib.request.build_opener(_NoRedirect, *proxies)
            with opener.open(place, timeout=FETCH_SECONDS_MAX) as response:
                contents = response.read(BYTES_MAX + 1)
        else:
            contents = read_file(Path(place), BYTES_MAX)
    except (OSError, HTTPException, urllib.error.URLError) as error:
        raise AccessError(f"{place}: can't be read: {getattr(error, 'reason', None) or error}") from None
    if len(contents) > BYTES_MAX:
        raise AccessError(f"{place}: has more than {BYTES_MAX} bytes")
    try:
        entries = json.loads(contents)["keys"]
        if not isinstance(entries, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AccessError(f'{place}: should be a JWKS: {{"keys": [...]}}') from None
    if len(entries) > KEYS_MAX:
        raise AccessError(f"{place}: has {len(entries)} keys, at most {KEYS_MAX} are read")
    keys = {}
    for entry in entries:
        # Keys for encryption, shared secrets and kinds that nobody knows are none that a token may be signed with.
        if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        keys[str(entry.get("kid", ""))] = key
    if not keys:
        raise AccessError(f"{place}: has no public key that signatures can be checked with")
    return keys
