"""Which labels are believed: true ones, also after a shift, and not those of who lies."""

from collections.abc import Sequence

import numpy as np
import pytest

from duly.models.learning import Trust
from duly_learn.learner.trust import Judgement, judge
from tests.learn.concepts import FRAUD, INTRUSION, Concepts

RATES = {0: 0.76, 1: 0.24}
FIVE = [f"bank-{at % 5}" for at in range(600)]


def judged(
    labels_of: "object",
    concepts: Concepts = FRAUD,
    sources: Sequence[str | tuple[str, str]] = FIVE,
    answers_of: int = 0,
    concept: int = 0,
) -> tuple[Judgement, np.ndarray]:
    """Labels of `concept` as `labels_of(random, numbers, labels)` makes them, about answers of a model that knows
    concept `answers_of`. Returns the judgement, and which labels are false.
    """
    random = np.random.default_rng(4)
    numbers, labels = concepts.draw(random, len(sources), concept)
    said = labels_of(random, numbers, labels)  # type: ignore[operator]
    answers = labels if answers_of == concept else random.permutation(labels)
    rates = {int(each): float((labels == each).mean()) for each in np.unique(labels)}
    senders = [(each, "") if isinstance(each, str) else each for each in sources]
    return judge(numbers.astype(np.float64), said, answers, senders, rates, Trust(), 0), said != labels


def honest(random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return labels.copy()


@pytest.mark.parametrize("concepts", [FRAUD, INTRUSION])
@pytest.mark.parametrize(("concept", "sources"), [(0, 1), (0, 5), (1, 5), (2, 60)])
def test_true_labels_are_believed_also_where_the_concept_has_changed(
    concepts: Concepts, concept: int, sources: int
) -> None:
    names = [f"source-{at % sources}" for at in range(600)]
    found, _ = judged(honest, concepts, names, answers_of=0, concept=concept)
    assert not found.refused
    assert found.believed.mean() >= 0.9, found.reasons


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_random_labels_of_a_stretch_are_not_believed(share: float) -> None:
    def lie(random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        said = labels.copy()
        said[-int(share * len(said)) :] = random.integers(0, 2, int(share * len(said)))
        return said

    found, false = judged(lie, sources=["bank"] * 600)
    assert found.refused or false[found.believed].mean() < 0.03, found.reasons


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_flipped_labels_of_a_stretch_are_not_believed(share: float) -> None:
    def lie(random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        said = labels.copy()
        said[-int(share * len(said)) :] = 1 - said[-int(share * len(said)) :]
        return said

    found, false = judged(lie, sources=["bank"] * 600)
    assert found.refused or false[found.believed].mean() < 0.03, found.reasons


def test_flips_of_one_of_five_sources_that_suit_it_are_not_believed() -> None:
    def lie(random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        own = np.array([name == "bank-3" for name in FIVE])
        return np.where(own & (labels == 1), 0, labels)

    found, false = judged(lie)
    assert not found.refused
    assert false[found.believed].sum() <= 2, found.reasons
    assert any("labels of bank-3" in reason for reason in found.reasons)


def test_all_classes_flipped_in_whole_are_refused() -> None:
    found, _ = judged(lambda random, numbers, labels: 1 - labels)
    assert found.refused
    assert "100% of the labels are not believed" in found.refused
    assert "of them are of class" in found.refused


def test_the_opposite_of_the_model_is_not_believed_where_classes_are_as_frequent() -> None:
    random = np.random.default_rng(2)
    numbers, labels = random.normal(size=(600, 3)), random.integers(0, 2, 600)
    numbers[:, 0] += 3 * labels
    found = judge(numbers, 1 - labels, labels, [(each, "") for each in FIVE], {0: 0.5, 1: 0.5}, Trust(), 0)
    assert "the opposite of the model" in found.refused


@pytest.mark.parametrize("names", [1, 8, 100])
def test_a_principal_is_no_more_believed_for_stating_many_sources(names: int) -> None:
    banks = [f"bank-{at % 4}" for at in range(1000)]
    own = np.array([bank == "bank-3" for bank in banks])
    sources = [(bank, f"n{at // 4 % names}" if bank == "bank-3" else "") for at, bank in enumerate(banks)]

    def lie(random: np.random.Generator, numbers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.where(own & (labels == 1), 0, labels)

    found, false = judged(lie, sources=sources)
    assert not found.refused
    assert false[found.believed].sum() <= 2, found.reasons
    assert found.believed[~own].mean() > 0.9, found.reasons


def test_no_principal_has_most_of_the_labels_whatever_sources_it_states() -> None:
    names = [("big", f"n{at % 7}") for at in range(500)] + [(f"small-{at % 4}", "") for at in range(100)]
    found, _ = judged(honest, sources=names)
    assert 40 <= found.believed[:500].sum() <= 70
    assert found.believed[500:].all()


def test_no_source_has_most_of_the_labels() -> None:
    names = ["big"] * 500 + [f"small-{at % 4}" for at in range(100)]
    found, _ = judged(honest, sources=names)
    assert 40 <= found.believed[:500].sum() <= 70
    assert found.believed[500:].all()


def test_few_labels_are_judged_too() -> None:
    found, _ = judged(honest, sources=["a"] * 10)
    assert found.believed.all()


def test_the_same_labels_and_seed_are_judged_alike() -> None:
    first, second = (judged(honest)[0] for _ in range(2))
    assert (first.believed == second.believed).all()
    assert first.reasons == second.reasons
