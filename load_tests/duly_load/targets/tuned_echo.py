"""The floor with duly's own settings of the transport: what is left of duly when no model runs.

The null echo beside it has gRPC as anybody gets it.

    python -m duly_load.targets.tuned_echo --listen unix:/tmp/echo.sock
"""

import duly.rpc  # noqa: F401 (it sets what gRPC reads when it is first imported, below)
from duly_load.targets.null_echo import main

if __name__ == "__main__":
    main()
