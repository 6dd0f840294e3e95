"""How Hypothesis runs here: never against the wall clock, and in CI the same examples every time.

`pytest tests/core --hypothesis-profile=duly-long` looks much longer.
"""

import os

from hypothesis import Phase, settings

# Without Phase.explain, which traces every line.
duly = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink])
settings.register_profile("duly", duly)
settings.register_profile("duly-ci", duly, derandomize=True)
settings.register_profile("duly-long", duly, max_examples=5000)
if settings.get_current_profile_name() != "duly-long":
    settings.load_profile("duly-ci" if os.environ.get("CI") else "duly")
