"""The real object detector through a real worker: photographs in, names and places out."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from duly.worker.channel import INVALID, OK
from tests.worker import real
from tests.worker.client import Encoded, Outcome, Worker, version_of


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, tuple[str, ...]]]:
    version = version_of(real.yolo(tmp_path_factory.mktemp("yolo")), "yolo")
    with Worker(version, threads=2) as worker:
        yield worker, version.labels


def names(outcome: Outcome, labels: tuple[str, ...]) -> list[str]:
    return [labels[index] for index in outcome.outputs["classes"]]


def jpeg(picture: np.ndarray) -> Encoded:
    return Encoded("JPEG", cv2.imencode(".jpg", picture)[1].tobytes())


@pytest.mark.parametrize(
    ("photograph", "name"),
    [("chelsea.png", "cat"), ("motorcycle_left.png", "motorbike"), ("coffee.png", "cup"), ("astronaut.png", "person")],
)
def test_photographs_show_what_they_show(detector: tuple[Worker, tuple[str, ...]], photograph: str, name: str) -> None:
    worker, labels = detector
    (outcome,) = worker.run([[Encoded("PNG", real.asset(photograph).read_bytes())]])
    assert names(outcome, labels) == [name]
    x0, y0, x1, y1 = outcome.outputs["boxes"][0]
    assert 0 <= x0 < x1 <= 1
    assert 0 <= y0 < y1 <= 1


def test_jpeg_png_and_pixels_of_a_picture_agree(detector: tuple[Worker, tuple[str, ...]]) -> None:
    worker, labels = detector
    stored = cv2.imread(str(real.asset("chelsea.png")))
    assert stored is not None
    pixels = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
    payloads = [jpeg(stored), Encoded("PNG", real.asset("chelsea.png").read_bytes()), pixels]
    outcomes = [worker.run([[payload]])[0] for payload in payloads]
    for outcome in outcomes:
        assert names(outcome, labels) == ["cat"]
        np.testing.assert_allclose(outcome.outputs["boxes"], outcomes[1].outputs["boxes"], atol=0.02)
    np.testing.assert_array_equal(outcomes[2].outputs["scores"], outcomes[1].outputs["scores"])


def test_bad_pictures_cost_only_themselves(detector: tuple[Worker, tuple[str, ...]]) -> None:
    worker, labels = detector
    stored = cv2.imread(str(real.asset("coffee.png")))
    assert stored is not None
    good = jpeg(stored)
    alone = worker.run([[good]])[0]
    cut = Encoded("JPEG", good.data[: len(good.data) // 2])
    for order in ((cut, good), (good, cut)):
        outcomes = dict(zip(order, worker.run([[payload] for payload in order], slot=1), strict=True))
        assert (outcomes[cut].status, outcomes[good].status) == (INVALID, OK)
        assert outcomes[cut].reason == f"input 'image': the JPEG of {len(cut.data)} bytes is damaged or cut off"
        assert names(outcomes[good], labels) == ["cup"]
        np.testing.assert_allclose(outcomes[good].outputs["boxes"], alone.outputs["boxes"], atol=1e-4)


def test_small_file_that_claims_a_huge_picture_is_invalid(detector: tuple[Worker, tuple[str, ...]]) -> None:
    worker, _ = detector
    payload = cv2.imencode(".png", np.zeros((8200, 8200), np.uint8))[1].tobytes()
    assert len(payload) < 1 << 20
    (outcome,) = worker.run([[Encoded("PNG", payload)]])
    assert outcome.reason == (
        "input 'image': the PNG has 8200 x 8200 pixels, at most 12,582,912 are decoded "
        "(pixels_max of [[input]] in model.toml)"
    )


def test_places_in_a_letterboxed_picture_are_those_in_the_picture(detector: tuple[Worker, tuple[str, ...]]) -> None:
    worker, labels = detector
    stored = cv2.imread(str(real.asset("coffee.png")))
    assert stored is not None
    x0, y0, x1, y1 = worker.run([[jpeg(stored)]])[0].outputs["boxes"][0]
    height = stored.shape[0]
    # The same picture with as much grey below it: what was at y is now at y / 2.
    taller = cv2.copyMakeBorder(stored, 0, height, 0, 0, cv2.BORDER_CONSTANT, value=(127, 127, 127))
    outcome = worker.run([[jpeg(taller)]])[0]
    assert names(outcome, labels) == ["cup"]
    np.testing.assert_allclose(outcome.outputs["boxes"][0], [x0, y0 / 2, x1, y1 / 2], atol=0.05)
