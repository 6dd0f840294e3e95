"""The session of Zenoh: what is subscribed to, what is published, and who asks how the gateway does."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import zenoh

from duly_gateways.settings_file import SettingsError
from duly_gateways.zenoh.bridge import ATTACHMENT_BYTES_MAX, Bridging, Sample
from duly_gateways.zenoh.settings import Bridge, Settings


def configured(settings: Settings) -> Any:
    """Returns the configuration of the session. Raises SettingsError."""
    try:
        if settings.config:
            return zenoh.Config.from_file(settings.config)
        config = zenoh.Config()
        config.insert_json5("mode", json.dumps(settings.mode))
        config.insert_json5("scouting/multicast/enabled", json.dumps(settings.multicast))
        config.insert_json5("transport/shared_memory/enabled", json.dumps(settings.shared_memory))
        for key, endpoints in (("connect", settings.connect), ("listen", settings.listen)):
            if endpoints:
                config.insert_json5(f"{key}/endpoints", json.dumps(endpoints))
        return config
    except zenoh.ZError as error:
        raise SettingsError(f"zenoh: {error}") from None


def check(bridge: Bridge) -> None:
    """Raises SettingsError where a key expression is none, or what is published would come in again."""
    try:
        subscribe = zenoh.KeyExpr(bridge.subscribe)
    except zenoh.ZError as error:
        raise SettingsError(f"subscribe: {bridge.subscribe!r} is no key expression: {error}") from None
    for name, pattern in (("publish", bridge.publish), ("errors", bridge.errors)):
        try:
            published = zenoh.KeyExpr(pattern.replace("{key}", bridge.subscribe))
            if "{key}" not in pattern and "*" in pattern:
                raise SettingsError(f"{name}: {pattern!r} has a wildcard; say {{key}} for the key of the sample")
        except zenoh.ZError as error:
            raise SettingsError(f"{name}: {pattern!r} makes no key: {error}") from None
        if published.intersects(subscribe):
            raise SettingsError(f"{name}: what is published at {pattern!r} would come in again by {bridge.subscribe!r}")


class Session:
    """An open session with bridges. `close` ends it."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where the session cannot be opened."""
        self._settings = settings
        for bridge in settings.bridges:
            check(bridge)
        try:
            self._session = zenoh.open(configured(settings))
        except zenoh.ZError as error:
            raise SettingsError(f"zenoh: {error}") from None
        self._declared: list[Any] = []

    def publish(self, key: str, payload: bytes, encoding: str, attachment: bytes) -> None:
        """Publishes at a key. It does not wait: where the network is full, samples are dropped, as Zenoh does."""
        with contextlib.suppress(zenoh.ZError):  # the session is being closed
            self._session.put(key, payload, encoding=zenoh.Encoding(encoding), attachment=attachment or None)

    def begin(self, bridgings: Sequence[Bridging]) -> None:
        """Subscribes for all bridges, and answers who asks for the status."""
        for bridging in bridgings:
            heard = _hearer(bridging)
            self._declared.append(self._session.declare_subscriber(bridging.bridge.subscribe, heard))
        if self._settings.status:
            status = self._settings.status

            def asked(query: Any) -> None:
                told = [
                    {"subscribe": each.bridge.subscribe, "model": each.bridge.model, "keys": each.keys}
                    | dict(each.counts)
                    for each in bridgings
                ]
                query.reply(status, json.dumps(told), encoding=zenoh.Encoding.APPLICATION_JSON)

            self._declared.append(self._session.declare_queryable(status, asked))

    def close(self) -> None:
        self._declared.clear()
        self._session.close()


def _hearer(bridging: Bridging) -> Callable[[Any], None]:
    """Returns what Zenoh's threads call with each sample."""
    by_timestamp = bridging.bridge.capture == "timestamp"
    bytes_max = bridging.bridge.sample_bytes_max

    def heard(sample: Any) -> None:
        if sample.kind == zenoh.SampleKind.DELETE:
            return
        stamp = sample.timestamp
        attachment = bytes(sample.attachment) if sample.attachment is not None else b""
        if stamp is not None and not attachment:
            attachment = stamp.to_string_rfc3339_lossy().encode()
        size_bytes = len(sample.payload)
        captured_ns = int(stamp.get_time().timestamp() * 1e9) if stamp is not None and by_timestamp else time.time_ns()
        bridging.arrived(
            Sample(
                key=str(sample.key_expr),
                encoding=str(sample.encoding),
                data=sample.payload.to_bytes() if size_bytes <= bytes_max else b"",
                size_bytes=size_bytes,
                captured_ns=captured_ns,
                attachment=attachment if len(attachment) <= ATTACHMENT_BYTES_MAX else b"",
                shared=sample.payload.as_shm() is not None,
            )
        )

    return heard
