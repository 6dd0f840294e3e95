"""What corruptions do to inputs of each kind: more at each severity, the same for the same seed, never out of range."""

import cv2
import numpy as np
import pytest

from duly.models.spec import TensorSpec
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array, Encoded
from duly_learn.robustness.corruptions import CORRUPTIONS, IMAGENET_C, NAMES, SEVERITIES, Corruption, chosen, corrupted
from duly_learn.robustness.kinds import Extent, Kind, channel_axis, extent_of, kind_of


def picture(side: int = 224) -> Array:
    """Structures of all sizes, as photographs have them, in the middle of the range."""
    chance = np.random.default_rng(0)
    found = np.zeros((side, side, 3))
    for blur in (1, 2, 4, 8, 16, 32):
        layer = cv2.GaussianBlur(chance.normal(size=found.shape), (0, 0), blur)
        found += layer / layer.std()
    return np.rint(128 + 20 * found / found.std()).astype(np.uint8)


def tone(samples: int = 512) -> Array:
    return (0.4 * np.sin(np.arange(samples) / 7) + 0.1 * np.sin(np.arange(samples) / 2)).astype(np.float32)


def row() -> Array:
    return np.float32([1, -2, 30, 0.5, 7, 8, 9, 10])


def rows() -> list[Array]:
    return [row() + np.float32(nth) * np.float32([1, 1, 10, 0.1, 1, 1, 1, 1]) for nth in range(5)]


EXAMPLES: dict[Kind, tuple[Array, Extent]] = {
    Kind.PICTURE: (picture(), extent_of(Kind.PICTURE, picture(), [picture()])),
    Kind.SIGNAL: (tone(), extent_of(Kind.SIGNAL, tone(), [tone()])),
    Kind.TABLE: (row(), extent_of(Kind.TABLE, row(), rows())),
}


def harm(corruption: Corruption, severity: int, seed: int = 0, frame: int = 0) -> Array:
    array, extent = EXAMPLES[corruption.kind]
    return corrupted(corruption, severity, array, extent, seed, frame, "x")


def distance(corruption: Corruption, severity: int) -> float:
    array, _ = EXAMPLES[corruption.kind]
    apart = [harm(corruption, severity, seed).astype(np.float64) - array for seed in range(8)]
    return float(np.sqrt(np.mean(np.square(apart))))


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda each: f"{each.kind}-{each.name}")
def test_each_severity_does_more_than_the_one_before(corruption: Corruption) -> None:
    far = [distance(corruption, severity) for severity in SEVERITIES]
    assert far[0] > 0
    assert far == sorted(far)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda each: f"{each.kind}-{each.name}")
def test_shape_type_and_range_stay_and_seeds_repeat(corruption: Corruption) -> None:
    array, _ = EXAMPLES[corruption.kind]
    done = harm(corruption, 5, seed=3)
    assert (done.shape, done.dtype) == (array.shape, array.dtype)
    assert np.array_equal(done, harm(corruption, 5, seed=3))
    assert np.isfinite(done.astype(np.float64)).all()


def test_frames_and_seeds_are_harmed_differently() -> None:
    noise = CORRUPTIONS[0]
    assert not np.array_equal(harm(noise, 1, frame=0), harm(noise, 1, frame=1))
    assert not np.array_equal(harm(noise, 1, seed=0), harm(noise, 1, seed=1))


def test_severities_of_imagenet_c_are_its_own() -> None:
    """The numbers of the paper's own code."""
    amounts = {each.name: each.amounts for each in CORRUPTIONS if each.scale == IMAGENET_C}
    assert amounts["gaussian_noise"] == (0.08, 0.12, 0.18, 0.26, 0.38)
    assert amounts["shot_noise"] == (60, 25, 12, 5, 3)
    assert amounts["impulse_noise"] == (0.03, 0.06, 0.09, 0.17, 0.27)
    assert amounts["defocus_blur"] == ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    assert amounts["brightness"] == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert amounts["contrast"] == (0.4, 0.3, 0.2, 0.1, 0.05)
    assert amounts["jpeg_compression"] == (25, 18, 15, 10, 7)
    assert amounts["pixelate"] == (0.6, 0.5, 0.4, 0.3, 0.25)


def by_name(name: str, kind: Kind = Kind.PICTURE) -> Corruption:
    return next(each for each in CORRUPTIONS if (each.name, each.kind) == (name, kind))


@pytest.mark.parametrize(("name", "severity", "amount"), [("gaussian_noise", 1, 0.08), ("gaussian_noise", 3, 0.18)])
def test_noise_has_the_deviation_that_it_says(name: str, severity: int, amount: float) -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    done = corrupted(by_name(name), severity, gray, EXAMPLES[Kind.PICTURE][1], 0, 0, "x")
    assert (done.astype(float) - 128).std() / 255 == pytest.approx(amount, rel=0.03)


def test_occlusion_covers_its_share_and_nothing_else() -> None:
    array, extent = EXAMPLES[Kind.PICTURE]
    for severity, share in zip(SEVERITIES, by_name("occlusion").amounts, strict=True):
        done = corrupted(by_name("occlusion"), severity, array, extent, 0, 0, "x")
        assert (done != array).any(axis=2).mean() == pytest.approx(share, abs=0.02)


def test_brightness_keeps_the_hue() -> None:
    done = harm(by_name("brightness"), 1).astype(float)
    value = picture().max(axis=2)
    assert done.max(axis=2) == pytest.approx(value + 25.5, abs=1)
    assert done[..., 0] / done.max(axis=2) == pytest.approx(picture()[..., 0] / value, abs=0.01)


def test_noise_of_a_signal_has_the_ratio_that_it_says() -> None:
    done = harm(by_name("noise", Kind.SIGNAL), 3)
    ratio = np.sqrt(np.mean(np.square(tone()))) / (done - tone()).std()
    assert 20 * np.log10(ratio) == pytest.approx(10, abs=0.7)


def test_columns_are_harmed_by_their_own_deviations() -> None:
    array, extent = EXAMPLES[Kind.TABLE]
    apart = [corrupted(by_name("offset", Kind.TABLE), 5, array, extent, seed, 0, "x") - array for seed in range(20)]
    assert np.abs(apart).mean(axis=0) == pytest.approx(np.std(rows(), axis=0), rel=1e-5)
    dropped = corrupted(by_name("dropped", Kind.TABLE), 5, array, extent, 0, 0, "x")
    assert all(value in (given, middle) for value, given, middle in zip(dropped, array, extent.middles, strict=True))


@pytest.mark.parametrize("layout", ["CHW", "HW", "float", "four"])
def test_pictures_of_all_layouts(layout: str) -> None:
    base = picture(64)
    array: Array = {
        "CHW": np.ascontiguousarray(np.moveaxis(base, 2, 0)),
        "HW": base[..., 0],
        "float": (base / np.float32(255) - np.float32(0.5)),
        "four": np.concatenate([base, base[..., :1]], axis=2),
    }[layout]
    extent = extent_of(Kind.PICTURE, array, [array])
    for corruption in CORRUPTIONS:
        if corruption.kind is Kind.PICTURE:
            done = corrupted(corruption, 5, array, extent, 0, 0, "x")
            assert (done.shape, done.dtype) == (array.shape, array.dtype)
            assert extent.low <= done.min() <= done.max() <= extent.high


@pytest.mark.parametrize("shape", [(300,), (300, 2), (2, 300)])
def test_signals_of_all_layouts_and_of_whole_numbers(shape: tuple[int, ...]) -> None:
    array = (1000 * np.sin(np.arange(np.prod(shape)) / 9)).astype(np.int16).reshape(shape)
    extent = extent_of(Kind.SIGNAL, array, [array])
    for corruption in CORRUPTIONS:
        if corruption.kind is Kind.SIGNAL:
            done = corrupted(corruption, 5, array, extent, 0, 0, "x")
            assert (done.shape, done.dtype) == (array.shape, np.int16)


def test_what_is_not_finite_stays_so_and_nothing_else_becomes_so() -> None:
    array = row()
    array[2] = np.nan
    extent = extent_of(Kind.TABLE, array, [array, row(), array])
    for corruption in CORRUPTIONS:
        if corruption.kind is Kind.TABLE:
            done = corrupted(corruption, 5, array, extent, 0, 0, "x")
            assert np.isnan(done).tolist() == np.isnan(array).tolist()


def test_the_names_that_are_asked_for() -> None:
    assert chosen([]) == NAMES
    assert chosen(["noise", "blur", "noise"]) == ("noise", "blur")
    with pytest.raises(LearnError, match=r"corruption 'fog': is none; there are gaussian_noise, "):
        chosen(["noise", "fog"])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.zeros((480, 640, 3), np.uint8), Kind.PICTURE),
        (np.zeros((3, 64, 64), np.float32), Kind.PICTURE),
        (np.zeros((28, 28), np.float32), Kind.PICTURE),
        (np.zeros((8, 8), np.uint8), Kind.PICTURE),
        (np.zeros(512, np.float32), Kind.SIGNAL),
        (np.zeros((6, 100), np.float32), Kind.SIGNAL),
        (np.zeros((2500, 12), np.int16), Kind.SIGNAL),
        (np.zeros(30, np.float32), Kind.TABLE),
        (np.zeros((1, 13), np.float64), Kind.TABLE),
        (np.zeros((), np.int64), Kind.OTHER),
        (np.zeros(30, bool), Kind.OTHER),
        (np.zeros((2, 3, 4, 5), np.float32), Kind.OTHER),
        (Encoded("JPEG", b""), Kind.PICTURE),
        (Encoded("PCM_S16LE", b""), Kind.SIGNAL),
        (Encoded("H264", b""), Kind.OTHER),
    ],
)
def test_what_an_input_is(value: Array | Encoded, kind: Kind) -> None:
    assert kind_of(TensorSpec(name="x", datatype="FP32", shape=(-1,)), value) is kind


def test_text_is_text_and_channels_are_found() -> None:
    assert kind_of(TensorSpec(name="x", datatype="STRING", shape=(1,)), np.array(["a"], object)) is Kind.TEXT
    assert [channel_axis(shape) for shape in ((9, 9, 3), (3, 9, 9), (9, 9, 9))] == [2, 0, None]
