"""`python -m duly_learn.learner`: see `duly_learn.learner.main`.

It steps back before it imports what is large: even its start gets only what is left of the processors.
"""

import argparse
import os
import resource
import sys
from pathlib import Path

from duly.die_with_parent import die_with_parent
from duly.worker.background import step_back
from duly.worker.kernel import AARCH64, MACHINE, X86_64, call
from duly_learn.learner.limits import AGE_SECONDS_MAX, MEMORY_BYTES_MAX, STORE_BYTES_MAX, Limits

_IOPRIO_SET = {X86_64: 251, AARCH64: 30}
_IDLE = 3 << 13  # linux/ioprio.h: the class in the upper bits


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m duly_learn.learner")
    parser.add_argument("--models", type=Path, required=True, help="the model repository")
    parser.add_argument("--store", type=Path, required=True, help="the folder of duly serve --learn")
    parser.add_argument("--commands", action="store_true", help="model.toml may name a trainer of its own")
    parser.add_argument("--bytes-max", type=int, default=0, help="memory that it may have")
    parser.add_argument(
        "--store-bytes-max", type=int, default=STORE_BYTES_MAX, help="disk that a model's frames may take"
    )
    parser.add_argument("--age-s-max", type=float, default=AGE_SECONDS_MAX, help="older frames are not kept")
    parser.add_argument("--served", type=int, default=0, metavar="PID", help="the server that has started it")
    given = parser.parse_args()
    if given.served:
        die_with_parent(given.served)
    os.umask(0o077)  # what it writes of clients' frames is for the server's user alone
    step_back()
    if MACHINE in _IOPRIO_SET:
        try:
            call(_IOPRIO_SET[MACHINE], 1, 0, _IDLE)
        except OSError as error:
            print(f"its reads and writes are as urgent as others: {error.strerror}", file=sys.stderr)
    if given.bytes_max:
        # The hard limit stays: trainers, which have a limit of their own, may have more than the learner.
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = given.bytes_max if hard == resource.RLIM_INFINITY else min(hard, given.bytes_max)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    from duly_learn.learner.main import learn

    limits = Limits(given.bytes_max or MEMORY_BYTES_MAX, given.store_bytes_max, given.age_s_max)
    return learn(given.models, given.store, given.commands, bool(given.served), limits)


if __name__ == "__main__":
    sys.exit(main())
