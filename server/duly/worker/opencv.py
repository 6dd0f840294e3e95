"""OpenCV as the worker uses it, set up before anything else can import it."""

import os

from duly.models.spec import PIXELS_MAX

os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(PIXELS_MAX)  # read once, at import

import cv2

cv2.setNumThreads(1)  # the lane's cores are the session's


def raise_for_memory(error: cv2.error) -> None:
    """Raises MemoryError where OpenCV could not have the memory that it asked for."""
    if error.code == cv2.Error.StsNoMem:
        raise MemoryError from error


__all__ = ["cv2", "raise_for_memory"]
