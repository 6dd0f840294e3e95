"""Decoders of encoded video, one for each stream and input, which stay warm from one picture to the next.

PyAV decodes, with FFmpeg's own decoders for the processor. They conceal what is missing and say nothing of it, so that
a decoder here keeps count: where access units are missing, or one is damaged, no picture comes until the next key
picture. Pictures must come out as they go in: an encoder that orders them otherwise (B-frames) makes every picture wait
for a later one, which no deadline can have.
"""

import importlib
from typing import Any

from duly.models.spec import TensorSpec
from duly.worker.decode import check_shape
from duly.worker.dtypes import Array
from duly.worker.errors import InvalidFrame, LoadError
from duly.worker.video_units import PARTS_MAX, is_key, parts, unpack

DECODERS_MAX = 256
"""A worker has no more decoders. A frame of one more stream is INVALID, rather than that another loses its pictures."""
PIXELS_ALL_MAX = 160 << 20
"""So many pixels the pictures of all decoders of a worker may have, one of each. A stream beyond it is INVALID. Each
may keep sixteen more, which a client can bring it to with a few kilobytes: 4 GiB in all.
"""
_CODECS = {"H264": "h264", "HEVC": "hevc"}
_HD_HEIGHT = 720
"""Colours of video that does not say how they are coded are those of HDTV (BT.709) from this height on, else of SDTV
(BT.601), as cameras and players have it."""
_UNSPECIFIED = 2
_BT709, _BT601 = 1, 5
_PTS = (1 << 62) - 1
"""Frame ids have one bit more than times in FFmpeg."""


def need_decoder(place: str) -> None:
    """Raises LoadError where video cannot be decoded here. `place`: the input in model.toml."""
    try:
        _av()
    except ImportError as error:
        raise LoadError(
            f"{place}.encodings: H264 and HEVC need PyAV, which cannot be imported: {error}. Install it: "
            "pip install 'duly[video]'"
        ) from error


class VideoDecoders:
    """The decoders of one worker's streams."""

    def __init__(self, decoders_max: int = DECODERS_MAX, pixels_all_max: int = PIXELS_ALL_MAX) -> None:
        self._decoders_max = decoders_max
        self._pixels_all_max = pixels_all_max
        self._decoders: dict[tuple[int, int], _Decoder] = {}

    def __len__(self) -> int:
        return len(self._decoders)

    def picture(self, stream_id: int, position: int, encoding: str, payload: memoryview, spec: TensorSpec) -> Array:
        """Decodes the access units of one frame of the stream for the input at that position. Returns the picture of
        the last one, [height, width, channels], UINT8. Raises InvalidFrame.
        """
        place = stream_id, position
        decoder = self._decoders.get(place)
        if decoder is None or decoder.encoding != encoding:
            if decoder is None and len(self._decoders) >= self._decoders_max:
                raise InvalidFrame(f"input '{spec.name}': {self._decoders_max} streams of video are decoded already")
            decoder = self._decoders[place] = _Decoder(encoding, spec.pixels_max)
        try:
            source, first, units = unpack(payload)
        except ValueError as error:
            raise InvalidFrame(f"input '{spec.name}': {error}") from error
        had = decoder.pixels
        try:
            picture = decoder.picture(source, first, units, spec.shape[2])
        except InvalidFrame as error:
            raise InvalidFrame(f"input '{spec.name}': {error}") from None
        if decoder.pixels > had and sum(each.pixels for each in self._decoders.values()) > self._pixels_all_max:
            decoder.drop()
            raise InvalidFrame(
                f"input '{spec.name}': the streams of video that are decoded already and this one have pictures of "
                f"more than {self._pixels_all_max:,} pixels together"
            )
        check_shape(picture.shape, spec)
        return picture

    def forget(self, stream_id: int) -> None:
        """Drops the stream's decoders."""
        for place in [place for place in self._decoders if place[0] == stream_id]:
            del self._decoders[place]


class _Decoder:
    def __init__(self, encoding: str, pixels_max: int) -> None:
        self.encoding = encoding
        self._pixels_max = pixels_max
        self._context: Any = None
        """PyAV's decoder; None until a key picture comes."""
        self._next = 0
        """Id of the frame that it can go on with."""
        self._source = 0
        """Id of the stream that has sent the frames. Those of a fusion group may have another one's, in its place."""
        self._newest: Any = None
        """What came out last."""

    @property
    def pixels(self) -> int:
        """Of the pictures that it keeps; 0: it keeps none."""
        newest = self._newest
        return 0 if self._context is None or newest is None else newest.width * newest.height

    def drop(self) -> None:
        """Goes on with the next key picture, and keeps nothing until then."""
        self._context = self._newest = None

    def picture(self, source: int, first: int, units: list[memoryview], channels: int) -> Array:
        """The picture of the last access unit; `first` is the id of the first one's frame, `source` that of its stream.
        Raises InvalidFrame.
        """
        if source != self._source:
            self.drop()
            self._source = source
        frame = self._newest
        for frame_id, unit in enumerate(units, start=first):
            if self._context is not None and frame_id < self._next:
                continue  # it was given with the frame before this one, whose outcome was still on its way
            data = bytes(unit)
            if self._context is None or frame_id != self._next:
                self._context = (
                    _context(_CODECS[self.encoding], self._pixels_max) if is_key(data, self.encoding) else None
                )
            if self._context is not None:
                self._next = frame_id + 1
                frame = self._newest = self._decoded(frame_id, data)
        if self._context is None:
            self.drop()
            raise InvalidFrame(
                f"its picture needs pictures before it that are not there; the next key picture of the {self.encoding} "
                "begins anew (have the encoder send one every second or so)"
            )
        if frame is None or frame.pts != (first + len(units) - 1) & _PTS:
            self.drop()
            raise InvalidFrame(
                f"no picture came out of its {len(units[-1])} bytes of {self.encoding}; one whole access unit a frame "
                "is taken, from an encoder that keeps the order (no B-frames; tune=zerolatency)"
            )
        if frame.width * frame.height > self._pixels_max:
            self.drop()
            raise InvalidFrame(
                f"the {self.encoding} has {frame.width} x {frame.height} pixels, at most {self._pixels_max:,} are "
                "decoded (pixels_max of [[input]] in model.toml)"
            )
        coded = frame.colorspace
        if coded == _UNSPECIFIED:
            coded = _BT709 if frame.height >= _HD_HEIGHT else _BT601
        kind = "gray" if channels == 1 else "rgb24"
        picture: Array = frame.to_ndarray(format=kind, src_colorspace=coded)
        return picture.reshape(frame.height, frame.width, channels)

    def _decoded(self, frame_id: int, data: bytes) -> Any:
        """The newest picture that comes out; None: none does. Raises InvalidFrame where the data is damaged."""
        if (count := parts(data)) > PARTS_MAX:
            self.drop()
            raise InvalidFrame(
                f"the {self.encoding} of {len(data)} bytes has {count} parts, at most {PARTS_MAX} are decoded"
            )
        av = _av()
        packet = av.Packet(data)
        packet.pts = frame_id & _PTS
        try:
            frames = self._context.decode(packet)
        except (av.FFmpegError, ValueError, MemoryError):
            frames, damaged = [], True
        else:
            damaged = any(frame.is_corrupt for frame in frames)
        if damaged:
            self.drop()
            raise InvalidFrame(
                f"the {self.encoding} of {len(data)} bytes is damaged, cut off, or larger than {self._pixels_max:,} "
                "pixels; the next key picture begins anew"
            )
        return frames[-1] if frames else None


def _context(codec: str, pixels_max: int) -> Any:
    av = _av()
    context = av.CodecContext.create(codec, "r")
    context.thread_count = 1  # several would each hold a picture back
    context.flags |= av.codec.context.Flags.low_delay
    # FFmpeg compares rows that are rounded up for its own use.
    context.options = {"max_pixels": str(pixels_max + (1 << 20)), "err_detect": "explode"}
    return context


def _av() -> Any:
    av = importlib.import_module("av")
    av.logging.set_level(None)  # clients must not fill the server's log
    return av
