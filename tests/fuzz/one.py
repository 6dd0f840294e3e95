"""Fuzzes one target with atheris: `python -m tests.fuzz.one TARGET [options of libFuzzer]`."""

import sys

import atheris

with atheris.instrument_imports(include=["duly", "duly_client"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv[1]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
