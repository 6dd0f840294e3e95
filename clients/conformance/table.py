"""The table of cases, as it is read from cases.toml."""

import tomllib
from pathlib import Path
from typing import Any

_TABLE = tomllib.loads((Path(__file__).parent / "cases.toml").read_text(encoding="utf-8"))

SERVERS: dict[str, dict[str, Any]] = _TABLE["server"]
CASES: list[dict[str, Any]] = _TABLE["case"]
