"""`python -m tests.gpu.stage JSON`: runs one stage, in the environment that was made for it."""

import sys
from importlib import import_module

from tests.gpu.stages import LEFT_OUT, Asked, LeftOut


def main() -> int:
    name, asked = sys.argv[1], Asked.from_json(sys.argv[2])
    try:
        import_module(f"tests.gpu.stage_{name}").run(asked)
    except LeftOut as reason:
        sys.stdout.write(f"{reason}\n")
        return LEFT_OUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
