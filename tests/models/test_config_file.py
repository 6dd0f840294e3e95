"""model.toml as editors and people write it. What is wrong is said without the words of the libraries that find it."""

import re
from pathlib import Path

import pytest

from duly.models.config_file import read_config
from duly.models.errors import BrokenModel

X = '[[input]]\nname = "x"\n'
G = "[[guard]]\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_settings_are_read_as_every_editor_saves_them(tmp_path: Path, encoding: str, line_end: str) -> None:
    lines = ["# réglages", "threads\t=\t2", 'description = "été"', ""]
    (tmp_path / "model.toml").write_bytes(line_end.join(lines).encode(encoding))
    config = read_config(tmp_path)
    assert (config.threads, config.description) == (2, "été")


# "…" stands for anything.
@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("thread = 2", "thread: there is no such key; did you mean threads?"),
        ('[[inputs]]\nname = "x"', "inputs: there is no such key; did you mean input?"),
        (X + 'encoding = ["PNG"]', "input[0].encoding: there is no such key; did you mean encodings?"),
        (X + "threads = 2", "input[0].threads: there is no such key; threads is one of the whole model: put it above"),
        (X + "batch_sizes = [1]", "input[0].batch_sizes: there is no such key; batch_sizes is one of the whole model"),
        ("sample_rate_hz = 9", "sample_rate_hz: there is no such key; sample_rate_hz is one of an input: put it below"),
        (
            '[[output]]\nname = "y"\nlabels = "n.txt"',
            "output[0].labels: there is no such key; labels is one of the whole model",
        ),
        (
            X + 'preprocess = [{ op = "normalize" }]',
            'input[0].preprocess[0].op: there is no operation "normalize"; the',
        ),
        (
            X + "preprocess = [{ width = 2 }]",
            "input[0].preprocess[0].op: is missing; the operations are gray, resize, ",
        ),
        (
            X + 'preprocess = [{ op = "layout", axis = "CHW" }]',
            "input[0].preprocess[0].axis: there is no such key; did",
        ),
        (
            G + 'kind = "blank"',
            'guard[0].kind: there is no guard "blank"; the guards are RANGE, …; did you mean BLANK?',
        ),
        (
            G + 'name = "dark"',
            "guard[0].kind: is missing; the guards are RANGE, FINITE, BLANK, SATURATED, FROZEN, DIST",
        ),
        (G + 'kind = "FROZEN"\nrepeats = 2', "guard[0].repeats: there is no such key; did you mean repeats_max?"),
        (G + 'kind = "RANGE"', "guard: RANGE needs min, max, or both"),
        (G + 'kind = "RANGE"\nmin = 2\nmax = 1.5', "guard: RANGE has min = 2 above max = 1.5; turn them round"),
        (G + 'kind = "RANGE"\nmin = nan', "guard[0].min: should be a finite number, got NaN"),
        (G + 'kind = "RANGE"\nmax = inf', "guard[0].max: should be a finite number, got Infinity"),
        (G + 'kind = "BLANK"\nspread_max = -1', "guard[0].spread_max: should be greater than or equal to 0, got -1"),
        (G + 'kind = "SATURATED"\nlow = 1\nhigh = 1', "guard: SATURATED has low = 1, not below high = 1; turn them"),
        (G + 'kind = "SATURATED"\nshare_max = 1', "guard[0].share_max: should be less than 1, got 1"),
        (G + 'kind = "FROZEN"\nrepeats_max = -1', "guard[0].repeats_max: should be greater than or equal to 0, got"),
        (G + 'kind = "FROZEN"\naction = "DROP"', "guard[0].action: should be 'FLAG' or 'INVALID', got \"DROP\""),
        (
            G + 'kind = "FROZEN"\nname = "Fest!"',
            "guard: 'Fest!' is no name; take up to 32 small letters, digits, _ and",
        ),
        (G + 'kind = "DISTRIBUTION"', "guard[0].output: is missing"),
        (G + 'kind = "DISTRIBUTION"\noutput = "d"\nmax = nan', "guard[0].max: should be a finite number, got NaN"),
        (
            2 * (G + 'kind = "BLANK"\n'),
            "guard[1].name: 'blank' is what guard[0] is called already; give it another one",
        ),
        (17 * (G + 'kind = "BLANK"\n'), "guard: at most 16 are taken, got 17"),
        ('[guard]\nkind = "BLANK"', "guard: should be [[guard]], in double brackets"),
        (X + 'datatype = "float32"', "input[0].datatype: should be 'BOOL', …, got \"float32\"; did you mean FP32?"),
        (X + 'encodings = ["jpeg"]', 'input[0].encodings[0]: should be …, got "jpeg"; did you mean JPEG?'),
        (X + 'shape = "3,4"', 'input[0].shape: should be a list in [ ], got "3,4"'),
        (X + "finite = 1", "input[0].finite: should be true or false, got 1"),
        ("threads = true", "threads: should be a whole number, got true"),
        ('default_budget_ms = "50 ms"', 'default_budget_ms: should be a number, got "50 ms"'),
        ("description = 3", "description: should be a text in quotes, got 3"),
        ("batch_sizes = 4", "batch_sizes: should be a list in [ ], got 4"),
        ('[state]\ninput = "a"\noutput = "b"', "state: should be [[state]], in double brackets"),
        ('input = ["x"]', "input[0]: should be a table, such as { name = ... }"),
        ("constants = [1]", "constants: should be a table, such as { key = 1 }"),
        ("a: 3", "not TOML: Expected '=' after a key …line 1…: a: 3; a line is: key = value"),
        (
            "threads = 2\nthreads = 3",
            "not TOML: Cannot overwrite a value …: threads = 3; the key stands twice",
        ),
        ("spinning = True", "not TOML: Invalid value …: spinning = True; texts stand in quotes, and true and false"),
        ("default_class = CRITICAL", "not TOML: Invalid value …: default_class = CRITICAL; texts stand in quotes"),
        ('labels = "a\\names.txt"\nx = "C:\\d"', "not TOML: Unescaped '\\' in a string …; write '/' in paths"),
        ("labels = “names.txt”", "not TOML: Invalid value …: labels = “names.txt”; texts stand in quotes"),
        ('{"threads": 2}', "not TOML: Invalid statement …; a line is: key = value"),
        ("[constants]\na = 1\n[constants]\nb = 2", "not TOML: Cannot declare …; the table stands twice"),
        pytest.param("a = " + "[" * 9999, "its tables or lists lie too deep within one another", id="lists"),
        pytest.param(f"[{'a.' * 9999}a]", "its tables or lists lie too deep within one another", id="tables"),
        pytest.param("x = { " + '"!".' * 50_000 + "a = 1 }", "its tables or lists lie too deep", id="quoted keys"),
        pytest.param(f"x = [{'1, ' * 80_000}", "not TOML: Invalid value", id="large"),
        pytest.param(f"batch_sizes = [{'1, ' * 80_000}]", "batch_sizes: ", id="many sizes"),
        pytest.param("x" * 200_000 + " = 1", "x" * 99, id="a long key"),
    ],
)
def test_what_is_wrong_is_told_in_plain_words_with_what_was_meant(tmp_path: Path, toml: str, reason: str) -> None:
    (tmp_path / "model.toml").write_text(toml)
    with pytest.raises(BrokenModel) as refused:
        read_config(tmp_path)
    assert len(str(refused.value)) < 3000
    position = 0
    for part in f"/model.toml: {reason}".split("…"):
        position = str(refused.value).find(part, position)
        assert position >= 0, (part, str(refused.value))
    assert not re.search(r"Input should|Input tag|pydantic|valid (array|tuple|dictionary)", str(refused.value))
