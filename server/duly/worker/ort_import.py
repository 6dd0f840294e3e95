"""Imports ONNX Runtime. Nothing else of the server does, as what is set here has to be set before, or at once."""

import os

from duly.worker.ort_installed import check_installed

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # on by default on Linux since 1.29, and only read at import
check_installed()

import onnxruntime  # noqa: E402

__all__ = ["LOG_ERRORS", "LOG_FATAL", "onnxruntime"]

LOG_ERRORS = 3  # ORT_LOGGING_LEVEL_ERROR
LOG_FATAL = 4  # ORT_LOGGING_LEVEL_FATAL
onnxruntime.set_default_logger_severity(LOG_ERRORS)  # else it may warn of devices that a confined worker cannot see
