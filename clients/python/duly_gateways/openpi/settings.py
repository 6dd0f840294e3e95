"""What the gateway for clients of openpi is told."""

from dataclasses import dataclass, field
from typing import Any

from duly_gateways.openpi.mapping import Observed

BUDGET_MS_MAX = 600_000.0
"""The longest budget that a client of openpi may ask for."""


@dataclass(frozen=True, slots=True)
class Settings:
    model: str
    observed: Observed = field(default_factory=Observed)
    budget_ms: float = 0.0
    """How long a request may take; 0: the model's own budget. A client states another one in its address:
    `ws://host:port/?budget_ms=50`."""
    stream_class: str = ""
    """The class of the streams; empty: the model's own."""
    connections_max: int = 64
    """How many connections may be open; further ones are refused with the HTTP status 503."""
    message_bytes_max: int = 16 << 20
    """The largest observation; a connection that sends a larger one is closed (1009)."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What clients get when they connect, besides what is known of the model."""
    api_key: str = ""
    """What clients have to show as their `api_key`; empty: nothing."""
