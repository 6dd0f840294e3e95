"""What holds for every test: the developer's own settings stay out, and a failing example is found again."""

import os

from hypothesis import settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when onnxruntime is first imported
for variable in [name for name in os.environ if name.startswith("DULY_") and name != "DULY_CACHE_DIR"]:
    del os.environ[variable]

settings.register_profile("duly", deadline=None, derandomize=True)
settings.load_profile("duly")
