"""How Hypothesis runs here: never against the wall clock, and in CI the same examples every time."""

import os

from hypothesis import settings

settings.register_profile("duly", deadline=None)
settings.register_profile("duly-ci", deadline=None, derandomize=True)
settings.register_profile("duly-long", deadline=None, max_examples=5000)
if settings.get_current_profile_name() != "duly-long":
    settings.load_profile("duly-ci" if os.environ.get("CI") else "duly")
