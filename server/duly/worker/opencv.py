"""OpenCV as the worker uses it, set up before anything else can import it."""

import os

PIXELS_MAX = 64 << 20
"""No picture may have more pixels, since a small file can claim to hold a huge picture."""

os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(PIXELS_MAX)  # read once, at import

import cv2  # noqa: E402

cv2.setNumThreads(1)  # the lane's cores are the session's

__all__ = ["PIXELS_MAX", "cv2"]
