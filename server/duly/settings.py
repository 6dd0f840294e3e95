"""What is known of settings without reading any, which workers need as well: how they are written, and the defaults of
those that bound one frame. `config` has all of them, and takes much longer to import.
"""

BYTES_IN_FLIGHT = 64 << 20
PAYLOAD_BYTES = 1 << 30


def option_name(setting: str) -> str:
    """The option for a setting: `--streams-max` for `streams_max`."""
    return "--" + setting.replace("_", "-")


def variable_name(setting: str) -> str:
    """The environment variable for a setting: `DULY_STREAMS_MAX` for `streams_max`."""
    return "DULY_" + setting.upper()
