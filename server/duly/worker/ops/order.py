"""The operations of model.toml: the one place where settings and what carries them out are brought together."""

from collections.abc import Callable
from typing import Any

from duly.models.spec import YoloV2
from duly.models.steps import Gray, Layout, Normalise, Resize, Step, Window
from duly.worker.graph import GraphTensor
from duly.worker.ops.gray import GrayOperation
from duly.worker.ops.layout import LayoutOperation
from duly.worker.ops.normalise import NormaliseOperation
from duly.worker.ops.operation import Operation, PostOperation
from duly.worker.ops.resize import ResizeOperation
from duly.worker.ops.window import WindowOperation
from duly.worker.ops.yolo_v2 import YoloV2Operation

PREPROCESS: dict[type[Step], Callable[[Any], Operation]] = {
    Gray: GrayOperation,
    Resize: ResizeOperation,
    Window: WindowOperation,
    Normalise: NormaliseOperation,
    Layout: LayoutOperation,
}
"""The preprocessing operations by their settings, in the order in which an input has to state them."""

POSTPROCESS: dict[type[YoloV2], Callable[[Any, GraphTensor], PostOperation]] = {YoloV2: YoloV2Operation}
"""The postprocessing operations by their settings."""
