"""How Hypothesis runs here: it never looks at the wall clock, and in CI it tries the same examples every time.

`pytest tests/core --hypothesis-profile=duly-long` looks much longer.
"""

import os

from hypothesis import Phase, settings

# Phase.explain is left out, since it traces every line.
duly = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink])
settings.register_profile("duly", duly)
settings.register_profile("duly-ci", duly, derandomize=True)
settings.register_profile("duly-long", duly, max_examples=5000)
if settings.get_current_profile_name() != "duly-long":
    settings.load_profile("duly-ci" if os.environ.get("CI") else "duly")
