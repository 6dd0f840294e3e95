"""What tests of real time need of the machine, and why they are skipped where it is not there."""

import pytest

from duly.realtime import rights

_LACKING = rights.lacking(rights.look())

needs_rights = pytest.mark.skipif(bool(_LACKING), reason="; ".join(each.what for each in _LACKING) or "none is lacking")
