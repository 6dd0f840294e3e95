"""Writes the files beside it with what people record with. Run by hand, and seldom: the files are kept.

It wants ffmpeg, GStreamer with its good and bad plugins, ImageMagick, sox and cjpeg as commands, and NumPy, Pillow,
OpenCV and soundfile as modules. Which versions wrote the files that are kept stands in versions.txt.
"""

import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import soundfile
from PIL import Image

from tests.recordings.truth import BLACK_WHITE, COLOUR, DEEP, DEPTH, FEW, GRAY, PICTURES, RATE_HZ, SIXTEEN, SOUND

HERE = Path(__file__).parent
HEIGHT, WIDTH = GRAY.shape


def run(*command: object, data: bytes = b"") -> bytes:
    return subprocess.run([*map(str, command)], input=data, stdout=subprocess.PIPE, check=True).stdout


def ffmpeg(name: str, *options: object, pixels: Any = None, sound: Any = None, output: object = "") -> None:
    """Writes `name` by ffmpeg, from pixels or sound that it reads raw. `output`: what it is told to write to."""
    if pixels is not None:
        formats = {(2, 1): "gray", (3, 1): "rgb24", (2, 2): "gray16le", (3, 2): "rgb48le"}
        format_name = formats[pixels[0].ndim, pixels[0].itemsize]
        source = ["-f", "rawvideo", "-pix_fmt", format_name, "-s", f"{WIDTH}x{HEIGHT}", "-r", 10, "-i", "-"]
        data = b"".join(each.tobytes() for each in pixels)
    else:
        source, data = ["-f", "s16le", "-ar", RATE_HZ, "-ac", 1, "-i", "-"], sound.tobytes()
    written = run(
        "ffmpeg", "-v", "error", "-y", *source, *options, "-fflags", "+bitexact", output or HERE / name, data=data
    )
    if output:
        (HERE / name).write_bytes(written)


def gstreamer(name: str, caps: str, data: bytes, *elements: str) -> None:
    raw = HERE / "raw"
    raw.write_bytes(data)
    pipeline = " ! ".join(
        [f"filesrc location={raw} blocksize={GRAY.size}", caps, *elements, f"filesink location={HERE / name}"]
    )
    run("gst-launch-1.0", "-q", *pipeline.split())
    raw.unlink()


def pillow(name: str, pixels: Any, **options: Any) -> None:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(HERE / name, **options)


def turned() -> bytes:
    """EXIF that says: turn clockwise to see it upright."""
    exif = Image.Exif()
    exif[0x112] = 6
    return exif.tobytes()


def still_pictures() -> None:
    pillow("pillow_gray.png", GRAY)
    pillow("pillow_colour.png", COLOUR)
    pillow("pillow_depth.png", DEPTH)
    pillow("pillow_1bit.png", Image.fromarray(BLACK_WHITE).convert("1"))
    pillow("pillow_palette.png", Image.fromarray(FEW).quantize(256))
    pillow("pillow_palette_transparent.png", Image.fromarray(FEW).quantize(256), transparency=0)
    alpha = np.dstack([COLOUR, np.full_like(GRAY, 255)])
    pillow("pillow_alpha_opaque.png", alpha)
    alpha[3, 4, 3] = 254
    pillow("pillow_alpha.png", alpha)
    pillow("pillow_gray_alpha.png", Image.fromarray(np.dstack([GRAY, GRAY])))
    pillow("pillow_gray_colour_key.png", GRAY, transparency=5)
    first, *others = [Image.fromarray(each) for each in PICTURES]
    first.save(HERE / "pillow_animation.png", save_all=True, append_images=others)
    pillow("pillow_turned.png", COLOUR, exif=turned())
    pillow("pillow_turned.jpg", COLOUR, exif=turned(), quality=95, subsampling=0)
    pillow("pillow_colour.jpg", COLOUR, quality=95, subsampling=0)
    pillow("pillow_gray.jpg", GRAY, quality=95)
    pillow("pillow_progressive.jpg", COLOUR, quality=95, subsampling=0, progressive=True)
    pillow("pillow_cmyk.jpg", Image.fromarray(COLOUR).convert("CMYK"), quality=95)
    Image.fromarray(COLOUR).save(HERE / "pillow_webp.jpg", "WEBP")
    cv2.imwrite(str(HERE / "opencv_depth.png"), DEPTH)
    cv2.imwrite(str(HERE / "opencv_colour.jpg"), COLOUR[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    ffmpeg("ffmpeg_depth.png", "-pix_fmt", "gray16be", pixels=[DEPTH])
    ffmpeg("ffmpeg_rgb48.png", "-pix_fmt", "rgb48be", pixels=[DEEP])
    ffmpeg("ffmpeg_rgba.png", "-pix_fmt", "rgba", pixels=[COLOUR])
    ffmpeg("ffmpeg_1bit.png", "-pix_fmt", "monob", pixels=[BLACK_WHITE])
    ffmpeg("ffmpeg_gray.jpg", "-pix_fmt", "gray", "-q:v", 1, pixels=[GRAY])
    ffmpeg("ffmpeg_colour.jpg", "-pix_fmt", "yuvj444p", "-q:v", 1, pixels=[COLOUR])
    raw = f"rawvideoparse width={WIDTH} height={HEIGHT} format="
    gstreamer(
        "gstreamer_depth.png",
        raw + "gray16-le",
        DEPTH.tobytes(),
        "videoconvert",
        "video/x-raw,format=GRAY16_BE",
        "pngenc",
    )
    gstreamer("gstreamer_gray.jpg", raw + "gray8", GRAY.tobytes(), "jpegenc quality=95")
    png = HERE / "pillow_colour.png"
    run(
        "convert",
        png,
        "-interlace",
        "PNG",
        "-define",
        "png:exclude-chunks=date,time",
        HERE / "imagemagick_interlaced.png",
    )
    run("convert", HERE / "pillow_gray.png", "-depth", "16", "PNG48:" + str(HERE / "imagemagick_48bit.png"))
    four_bits = ("-depth", "4", "-define", "png:color-type=0", "-define", "png:bit-depth=4")
    run("convert", "pgm:-", *four_bits, HERE / "imagemagick_4bit.png", data=b"P5 32 24 255 " + SIXTEEN.tobytes())
    run("convert", png, "-colorspace", "CMYK", HERE / "imagemagick_cmyk.jpg")
    ppm = f"P6 {WIDTH} {HEIGHT} 255 ".encode() + COLOUR.tobytes()
    (HERE / "cjpeg_arithmetic.jpg").write_bytes(run("cjpeg", "-arithmetic", "-quality", 95, data=ppm))


def streams_and_video() -> None:
    ffmpeg("ffmpeg.mjpeg", "-q:v", 1, "-pix_fmt", "yuvj444p", "-f", "mjpeg", pixels=PICTURES, output="-")
    multipart = ("-q:v", 1, "-pix_fmt", "yuvj444p", "-c:v", "mjpeg", "-f", "mpjpeg")
    ffmpeg("ffmpeg_multipart.mjpeg", *multipart, pixels=PICTURES, output="-")
    ffmpeg("ffmpeg_png.mjpeg", "-c:v", "png", "-f", "image2pipe", pixels=PICTURES, output="-")
    raw = f"rawvideoparse width={WIDTH} height={HEIGHT} format=rgb framerate=10/1"
    data = b"".join(each.tobytes() for each in PICTURES)
    gstreamer("gstreamer.mjpeg", raw, data, "videoconvert", "jpegenc quality=95")
    boundary = "multipartmux boundary=spionisto"
    gstreamer("gstreamer_multipart.mjpeg", raw, data, "videoconvert", "jpegenc quality=95", boundary)
    gstreamer("gstreamer.avi", raw, data, "videoconvert", "jpegenc quality=95", "avimux")
    whole = (HERE / "ffmpeg.mjpeg").read_bytes()
    first, second, third = (b"\xff\xd8" + each for each in whole.split(b"\xff\xd8")[1:])
    (HERE / "v4l2_padded.mjpeg").write_bytes(
        b"".join(each + bytes(-len(each) % 512) for each in (first, second, third))
    )
    (HERE / "joined.mjpeg").write_bytes(first[300:] + second + third)
    (HERE / "damaged.mjpeg").write_bytes(first + second[:200] + third)
    writer = cv2.VideoWriter(str(HERE / "opencv_mjpg.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for each in PICTURES * 2:
        writer.write(each[:, :, ::-1])
    writer.release()
    for name in ("ffmpeg_mjpeg.mkv", "ffmpeg_mjpeg.mp4"):
        ffmpeg(name, "-c:v", "mjpeg", "-q:v", 1, "-pix_fmt", "yuvj444p", pixels=PICTURES)
    ffmpeg("ffmpeg_depth.mkv", "-c:v", "ffv1", "-pix_fmt", "gray16le", pixels=[DEPTH] * 3)
    ffmpeg("ffmpeg_10bit.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p10le", pixels=PICTURES)
    ffmpeg("ffmpeg_gray.mkv", "-c:v", "ffv1", "-pix_fmt", "gray", pixels=[GRAY] * 3)
    ffmpeg("ffmpeg_no_video.mp4", "-c:a", "aac", sound=SOUND)
    whole = (HERE / "opencv_mjpg.avi").read_bytes()
    (HERE / "opencv_cut.avi").write_bytes(whole[: whole.rindex(b"\xff\xd8\xff") + 200])


def sound() -> None:
    ffmpeg("ffmpeg.wav", sound=SOUND)
    ffmpeg("ffmpeg_pipe.wav", "-f", "wav", sound=SOUND, output="-")
    ffmpeg("ffmpeg_24bit.wav", "-c:a", "pcm_s24le", sound=SOUND)
    ffmpeg("ffmpeg_32bit.wav", "-c:a", "pcm_s32le", sound=SOUND)
    ffmpeg("ffmpeg_float.wav", "-c:a", "pcm_f32le", sound=SOUND)
    ffmpeg("ffmpeg_8bit.wav", "-c:a", "pcm_u8", sound=SOUND)
    ffmpeg("ffmpeg_alaw.wav", "-c:a", "pcm_alaw", sound=SOUND)
    ffmpeg("ffmpeg_stereo.wav", "-ac", 2, sound=SOUND)
    ffmpeg("ffmpeg_8khz.wav", "-ar", 8000, sound=SOUND)
    ffmpeg("ffmpeg_rf64.wav", "-rf64", "always", sound=SOUND)
    ffmpeg("ffmpeg_w64.wav", "-f", "w64", sound=SOUND, output="-")
    soundfile.write(HERE / "soundfile_extensible.wav", SOUND, RATE_HZ, "PCM_16", format="WAVEX")
    soundfile.write(HERE / "soundfile_float.wav", SOUND / np.float32(1 << 15), RATE_HZ, "FLOAT")
    soundfile.write(HERE / "soundfile_rf64.wav", SOUND, RATE_HZ, "PCM_16", format="RF64")
    raw = f"audio/x-raw,format=S16LE,rate={RATE_HZ},channels=1,layout=interleaved"
    parse = f"rawaudioparse use-sink-caps=false format=pcm pcm-format=s16le sample-rate={RATE_HZ} num-channels=1"
    gstreamer("gstreamer.wav", parse, SOUND.tobytes(), raw, "wavenc")
    gstreamer("gstreamer_float.wav", parse, SOUND.tobytes(), "audioconvert", "audio/x-raw,format=F32LE", "wavenc")
    sox = ("sox", "-t", "raw", "-r", RATE_HZ, "-e", "signed", "-b", 16, "-c", 1, "-")
    run(*sox, HERE / "sox.wav", data=SOUND.tobytes())
    (HERE / "sox_pipe.wav").write_bytes(run(*sox, "-t", "wav", "-", data=SOUND.tobytes()))
    (HERE / "sox_cut.wav").write_bytes((HERE / "sox.wav").read_bytes()[:-200])


def arrays() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(HERE / "numpy.npy", rows)
    np.save(HERE / "numpy_float64.npy", rows.astype(np.float64))
    np.save(HERE / "numpy_fortran.npy", np.asfortranarray(rows))
    np.save(HERE / "numpy_big_endian.npy", rows.astype(">f4"))
    np.save(HERE / "numpy_objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    (HERE / "numpy_cut.npy").write_bytes((HERE / "numpy.npy").read_bytes()[:-20])
    np.savez(HERE / "numpy_several.npz", rows=rows)
    (HERE / "numpy_several.npz").rename(HERE / "numpy_npz.npy")


def versions() -> None:
    lines = [
        run("ffmpeg", "-version").decode().splitlines()[0].partition(" Copyright")[0],
        run("gst-launch-1.0", "--version").decode().splitlines()[1],
        run("convert", "-version").decode().splitlines()[0].partition(" https")[0].removeprefix("Version: "),
        run("sox", "--version").decode().strip(),
        subprocess.run(["cjpeg", "-version"], capture_output=True, text=True).stderr.splitlines()[0],
        f"Pillow {PIL.__version__}",
        f"OpenCV {cv2.__version__}",
        f"soundfile {soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}",
        f"NumPy {np.__version__}",
    ]
    (HERE / "versions.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    still_pictures()
    streams_and_video()
    sound()
    arrays()
    versions()
