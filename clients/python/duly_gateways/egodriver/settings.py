"""What the gateway for egodriver simulators is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

from duly_client.types import StreamClass
from duly_gateways.settings_file import SettingsError, Table

SESSIONS_MAX = 1024
"""How many rollouts of a simulator may be open at a time, at most: each may have two calls under way."""
SOURCES = ("route", "speed", "camera:NAME")
"""What an input of the model can be fed with."""


@dataclass(frozen=True, slots=True)
class Settings:
    model: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    """By the name of an input, what it is fed with: one of SOURCES. What is not stated goes by the input's name."""
    real_time_factor: float = 1.0
    """Simulated seconds for each second of the clock: at 0.5 a step of 100 ms may take 200."""
    share: float = 0.8
    """How much of a step the plan may take; the rest is for the way to the simulator and back."""
    step_ms: float = 100.0
    """The step of simulators that do not say when they will ask again."""
    brake_mps2: float = 3.0
    """How hard the vehicle brakes, straight on, where there is no plan any more."""
    stream_class: StreamClass | None = None
    sessions_max: int = 64

    def budget_ms(self, step_us: int) -> float:
        """Returns the budget of a plan: the contract has no deadline, but the simulation's step is one."""
        step_ms = step_us / 1e3 if step_us > 0 else self.step_ms
        return step_ms / self.real_time_factor * self.share


def read_settings(table: Table, model: str) -> Settings:
    """`model`: counts for more than what the file says, unless it is empty. Raises SettingsError."""
    named = table.take("model", str, "")
    stream_class = table.word("class", "", ("", *get_args(StreamClass)))
    settings = Settings(
        model=model or named,
        inputs=table.texts("inputs"),
        real_time_factor=table.number("real_time_factor", 1.0, 0.001, 1000.0),
        share=table.number("share", 0.8, 0.01, 1.0),
        step_ms=table.number("step_ms", 100.0, 1.0, 60_000.0),
        brake_mps2=table.number("brake_mps2", 3.0, 0.1, 20.0),
        stream_class=cast(StreamClass, stream_class) if stream_class else None,
        sessions_max=table.whole("sessions_max", 64, 1, SESSIONS_MAX),
    )
    table.finish()
    if not settings.model:
        raise SettingsError("--model: is missing; it is the policy's name in duly's repository")
    for name, source in settings.inputs.items():
        if source not in SOURCES[:2] and not source.startswith("camera:"):
            raise SettingsError(f"inputs.{name}: should be one of {', '.join(SOURCES)}, got {source!r}")
    return settings
