"""The protocol's page and the code agree on what is written by hand in both: the reasons for which a call ends."""

import re
from pathlib import Path

from duly.rpc.errors import _CODES
from duly_client.errors import _BY_REASON

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"


def test_the_page_the_server_and_the_client_know_the_same_reasons() -> None:
    listed = re.findall(r"^- `[A-Z_]+`.*(?:\n  .*)*", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    reasons = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", " ".join(re.sub(r"`[^`]*`", "", line) for line in listed)))
    assert reasons == _CODES.keys() == _BY_REASON.keys()
