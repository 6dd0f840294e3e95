"""The page about Triton's own tests counts right, and names checks that there are, of duly."""

import re
from collections import Counter

from tests.peers.environments import ROOT
from tests.peers.kserve.scripts import CLIENTS, checks_of

ROW = re.compile(r"\| (?P<cases>[^|]+) \| (?P<count>\d+) \| [^|]+ \| (?P<verdict>[^|]+) \| (?P<by>[^|]*)\|")
PAGE = (ROOT / "docs" / "kserve-qa.md").read_text(encoding="utf-8")
VERDICTS = {"holds": "hold", "differs": "hold in part", "not applicable": "are not applicable"}


def test_the_cases_are_counted() -> None:
    found: Counter[str] = Counter()
    for row in map(ROW.fullmatch, PAGE.splitlines()):
        if row:
            (verdict,) = (each for each in VERDICTS if row["verdict"].startswith(each))
            found[verdict] += int(row["count"])
    for verdict, words in VERDICTS.items():
        assert re.search(rf"\| {words}[^|]* \| {found[verdict]} \|", PAGE), (verdict, found[verdict])


def test_checks_that_are_named_are_there() -> None:
    scripts = {path.stem for path in CLIENTS.glob("*.py")}
    named = re.findall(r"`(\w+)\.(\w+)`", PAGE)
    for script, check in named:
        if script in scripts and check != "py":
            assert f"check_{check}" in checks_of(f"{script}.py", "duly"), f"{script}.{check}"
    assert len(named) > 100


def test_what_holds_has_its_check() -> None:
    for row in map(ROW.fullmatch, PAGE.splitlines()):
        if row and row["verdict"].startswith("holds"):
            assert row["by"].strip(), row["cases"]
