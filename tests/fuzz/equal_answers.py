"""Whether frames that are read without protobuf are those that protobuf reads, on as many messages as one likes:
`python -m tests.fuzz.equal_answers MESSAGES [SEED]`. Ends with an error at the first that is not.
"""

import random
import sys
import time

from duly.rpc.duly_v1 import common_frames
from tests.rpc.common_messages import check, messages

A_TIME = 10_000


def main() -> None:
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 14
    chance = random.Random(seed)
    sys.stdout.write(f"{'compiled' if not common_frames.__file__.endswith('.py') else 'in Python'}, seed {seed}\n")
    began_s = time.monotonic()
    done = read = 0
    while done < count:
        for message, kind in messages(chance, min(A_TIME, count - done)):
            read += check(message, kind)
            done += 1
        if done % (10 * A_TIME) == 0 or done >= count:
            seconds = time.monotonic() - began_s
            sys.stdout.write(f"{done:,} messages, {read:,} of them read without protobuf, all alike; {seconds:.0f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
