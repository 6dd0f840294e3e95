"""What a client may ask for when it opens a stream."""

import pytest

from duly.core.types import BacklogPolicy, GapPolicy, StreamClass
from duly.streams.clock import UNCERTAINTY_NS_MAX
from duly.streams.errors import InvalidTerms
from duly.streams.terms import StreamRequest, clock_relation, stream_terms, wanted_outputs
from tests.streams.bench import LIMITS, MS, signature, version


@pytest.mark.parametrize(
    ("asked", "field", "text"),
    [
        ({"stream_name": "é" * 65}, "stream_name", "is longer than 128 bytes"),
        ({"stream_name": "a\nb"}, "stream_name", "has characters that cannot be printed"),
        ({"backlog_frames": 2}, "backlog_frames", "goes with KEEP_LAST alone, got 2 with LATEST"),
        (
            {"backlog_policy": BacklogPolicy.KEEP_LAST},
            "backlog_frames",
            "should be 1 to 4096 with KEEP_LAST, got 0",
        ),
        ({"expected_period_ns": -1}, "expected_period_ns", "is negative: -1"),
        ({"gap_policy": GapPolicy.SKIP}, "gap_policy", "model 'm' keeps no state; leave it out"),
        ({"default_budget_ns": -1}, "default_budget_ns", f"should be 0 to {60_000 * MS}, got -1"),
        ({"floor": (1, 1)}, "floor.window", "should be 2 to 1024, got 1"),
        ({"floor": (4, 4)}, "floor.frames", "should be 1 to 3, less than floor.window, got 4"),
        ({"variant_lowest": "tiny"}, "variant_lowest", ": there is no variant 'tiny'; there are: default"),
    ],
)
def test_what_can_not_be_is_named(asked: dict[str, object], field: str, text: str) -> None:
    with pytest.raises(InvalidTerms) as error:
        stream_terms(StreamRequest("m", **asked), version(), LIMITS.stream, "somebody")  # type: ignore[arg-type]
    assert (error.value.field, str(error.value)) == (field, text)


def test_what_is_not_stated_is_the_models_default() -> None:
    terms = stream_terms(StreamRequest("m"), version(), LIMITS.stream, "somebody")
    config = version().version.config
    assert terms.stream_class is StreamClass[config.default_class]
    assert (terms.backlog, terms.backlog_frames) == (BacklogPolicy.LATEST, 1)
    assert terms.budget_ns == config.default_budget_ms * MS
    assert (terms.model, terms.principal, terms.floor_window) == ("m/1", "somebody", 0)


@pytest.mark.parametrize(
    ("names", "text"),
    [(("z",), ": there is no output 'z'; there are: y"), (("y", "y"), "name one twice")],
)
def test_outputs_are_known_and_named_once(names: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidTerms) as error:
        wanted_outputs(names, signature())
    assert (error.value.field, str(error.value)) == ("outputs", text)


@pytest.mark.parametrize("uncertainty_ns", [-1, 0, UNCERTAINTY_NS_MAX + 1])
def test_a_clock_known_no_better_relates_to_nothing(uncertainty_ns: int) -> None:
    with pytest.raises(InvalidTerms, match=f"should be 1 to {UNCERTAINTY_NS_MAX}, got {uncertainty_ns}"):
        clock_relation(0, uncertainty_ns)
