"""OpenCV as the worker uses it, set up before anything else can import it."""

import os

from duly.models.spec import PIXELS_MAX

os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(PIXELS_MAX)  # read once, at import

import cv2

cv2.setNumThreads(1)  # the lane's cores are the session's

__all__ = ["cv2"]
