"""PyTorch through both of its exporters: the older one over TorchScript, and the newer one over torch.export."""

import tempfile
import warnings
from pathlib import Path

import onnx
import torch
import torchvision
from keeping import Kept
from torch import nn

warnings.filterwarnings("ignore")
torch.manual_seed(12)
FOLDER = Path(tempfile.mkdtemp())
kept = Kept("torch", "torch", "torchvision", "onnxscript")


def export(
    name, how, module, example, frames, toml="", *, batched=True, inputs=None, outputs=None, axes=None, **options
):
    """Exports `module` with `example` and keeps it with its answers to `frames`, each of which is a tuple of tensors.

    `inputs`, `outputs`: names for the older exporter. `axes`: dynamic_axes or dynamic_shapes. `batched`: frames lack
    the first dimension of the graph.
    """
    dynamo = options.setdefault("dynamo", False)
    options |= {"dynamic_shapes": axes} if dynamo else {"dynamic_axes": axes}
    file = FOLDER / f"{name}.onnx"
    if not options.get("training"):
        module.eval()
    torch.onnx.export(module, example, file, input_names=inputs, output_names=outputs, **options)
    graph = onnx.load(file, load_external_data=False).graph
    weights = {each.name for each in graph.initializer}
    takes = [each.name for each in graph.input if each.name not in weights]
    gives = [each.name for each in graph.output]
    answers = []
    module.eval()
    for frame in frames:
        with torch.no_grad():
            given = module(*[value[None] if batched else value for value in frame])
        given = given if isinstance(given, tuple) else (given,)
        taken = [value[0].numpy() if batched else value.numpy() for value in given]
        answers.append(
            (dict(zip(takes, [v.numpy() for v in frame], strict=True)), dict(zip(gives, taken, strict=True)))
        )
    kept.keep(name, how, file, answers, toml)


def drawn(count, *shape):
    return [(torch.randn(shape),) for _ in range(count)]


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4, 3),
    )


OPEN = {"x": {0: "batch"}, "y": {0: "batch"}}
X = torch.randn(2, 3, 12, 12)
ONE = X[:1]
NAMES = {"inputs": ["x"], "outputs": ["y"]}

# ---- the batch dimension ----

net = convolutional()
for opset in (7, 13, 18):
    export(
        f"script_opset{opset}",
        f"TorchScript, `dynamic_axes`, opset {opset}",
        net,
        ONE,
        drawn(4, 3, 12, 12),
        axes=OPEN,
        opset_version=opset,
        **NAMES,
    )
export(
    "script_as_it_is",
    "TorchScript with nothing stated: the example's batch of 1 is fixed",
    net,
    ONE,
    drawn(4, 3, 12, 12),
)
export(
    "script_batch_of_four",
    "TorchScript with an example of 4 and nothing stated",
    net,
    torch.randn(4, 3, 12, 12),
    drawn(4, 3, 12, 12),
    **NAMES,
)
export(
    "dynamo_as_it_is",
    "`dynamo=True` with nothing stated: a batch of 1, weights beside",
    net,
    (ONE,),
    drawn(4, 3, 12, 12),
    dynamo=True,
)
batch = torch.export.Dim("batch", min=1, max=64)
export(
    "dynamo_dynamic",
    "`dynamo=True`, `dynamic_shapes`: weights in `model.onnx.data` beside",
    net,
    (X,),
    drawn(4, 3, 12, 12),
    axes=({0: batch},),
    dynamo=True,
)
export(
    "dynamo_one_file",
    "`dynamo=True`, `external_data=False`, `Dim.DYNAMIC`",
    net,
    (X,),
    drawn(4, 3, 12, 12),
    axes=({0: torch.export.Dim.DYNAMIC},),
    dynamo=True,
    external_data=False,
)


export(
    "initialisers_as_inputs",
    "`keep_initializers_as_inputs=True`, as old files have it",
    net,
    ONE,
    drawn(4, 3, 12, 12),
    axes=OPEN,
    keep_initializers_as_inputs=True,
    opset_version=10,
    **NAMES,
)


class Cloud(nn.Module):
    """PointNet in small: every point through an MLP, then the maximum over the points."""

    def __init__(self):
        super().__init__()
        self.each, self.all = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3)

    def forward(self, points):
        return self.all(self.each(points).max(dim=-2).values)


cloud = Cloud()
CLOUDS = [(torch.randn(count, 4),) for count in (5, 9, 5, 12, 9)]
export(
    "points_unbatched",
    "a point cloud [points, 4], no batch dimension; the number of points is open",
    cloud,
    torch.randn(7, 4),
    CLOUDS,
    "batched = false\n",
    batched=False,
    inputs=["points"],
    outputs=["scores"],
    axes={"points": {0: "points"}},
)
export(
    "points_batched",
    "point clouds [batch, points, 4]",
    cloud,
    torch.randn(2, 7, 4),
    CLOUDS,
    inputs=["points"],
    outputs=["scores"],
    axes={"points": {0: "batch", 1: "points"}, "scores": {0: "batch"}},
)


class PerPoint(Cloud):
    def forward(self, points):
        return self.each(points) @ self.all.weight.T - self.each(points).mean(dim=0) @ self.all.weight.T


export(
    "points_labelled",
    "a cloud [points, 4] to [points, 3], no batch dimension: each point's answer depends on all",
    PerPoint(),
    torch.randn(7, 4),
    CLOUDS,
    "batched = false\n",
    batched=False,
    inputs=["points"],
    outputs=["scores"],
    axes={"points": {0: "points"}, "scores": {0: "points"}},
)
picture = nn.Sequential(nn.Flatten(0), nn.Linear(3 * 8 * 8, 10))
export(
    "picture_unbatched",
    "a picture [3, 8, 8] to [10], no batch dimension",
    picture,
    torch.randn(3, 8, 8),
    drawn(4, 3, 8, 8),
    "batched = false\n",
    batched=False,
    **NAMES,
)


class Gray(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.net(x[None])[0]


export(
    "gray_unbatched",
    "a gray picture [1, 8, 8] to the same, no batch dimension: it looks as if it had a batch of 1",
    Gray(),
    torch.randn(1, 8, 8),
    drawn(4, 1, 8, 8),
    "batched = false\n",
    batched=False,
    **NAMES,
)


export(
    "points_dynamic",
    "the first cloud by `dynamo=True`, `Dim.DYNAMIC`: the number of points has a made-up name",
    cloud,
    (torch.randn(7, 4),),
    CLOUDS,
    "batched = false\n",
    batched=False,
    axes=({0: torch.export.Dim.DYNAMIC},),
    dynamo=True,
    external_data=False,
)
export(
    "points_labelled_dynamic",
    "the labelled cloud by `dynamo=True`, `Dim.DYNAMIC`",
    PerPoint(),
    (torch.randn(7, 4),),
    CLOUDS,
    "batched = false\n",
    batched=False,
    axes=({0: torch.export.Dim.DYNAMIC},),
    dynamo=True,
    external_data=False,
)


class Recurrent(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=batch_first)

    def forward(self, x):
        return self.lstm(x)[0]


export(
    "lstm_batch_first",
    "an LSTM, `batch_first=True`, sequences of any length",
    Recurrent(True),
    torch.randn(2, 5, 3),
    [*drawn(3, 6, 3), *drawn(2, 4, 3)],
    axes={"x": {0: "batch", 1: "time"}, "y": {0: "batch", 1: "time"}},
    **NAMES,
)
recurrent = Recurrent(False)


class AlongOne(nn.Module):
    """Frames [time, 3] of one stream, of which the graph takes several side by side along axis 1."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, x):
        return self.whole(x.transpose(0, 1)).transpose(0, 1)


frames = drawn(5, 6, 3)
file = FOLDER / "lstm.onnx"
torch.onnx.export(
    recurrent.eval(),
    torch.randn(6, 2, 3),
    file,
    input_names=["x"],
    output_names=["y"],
    dynamic_axes={"x": {1: "batch"}, "y": {1: "batch"}},
    dynamo=False,
)
with torch.no_grad():
    answers = [({"x": frame.numpy()}, {"y": AlongOne(recurrent)(frame[None])[0].numpy()}) for (frame,) in frames]
kept.keep(
    "lstm_time_first",
    "an LSTM as PyTorch has it by default: [time, batch, features]",
    file,
    answers,
    '[[input]]\nname = "x"\nbatch_axis = 1\n\n[[output]]\nname = "y"\nbatch_axis = 1\n',
)


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x, h):
        h = self.cell(x, h)
        return h * 2, h


export(
    "gru_step_explicit_state",
    "one step of a GRU, whose state goes in and out",
    Step(),
    (torch.randn(2, 3), torch.randn(2, 4)),
    [(torch.randn(3), torch.randn(4)) for _ in range(4)],
    axes={name: {0: "batch"} for name in ("x", "h", "y", "h_next")},
    inputs=["x", "h"],
    outputs=["y", "h_next"],
)

# ---- rows that depend on each other ----

for name, how, mode in (
    (
        "batchnorm_training",
        "`training=TRAINING`: batch norm and dropout as in training",
        torch.onnx.TrainingMode.TRAINING,
    ),
    ("preserve", "`training=PRESERVE` of a model in `eval()`", torch.onnx.TrainingMode.PRESERVE),
):
    module = convolutional().eval()
    if name == "batchnorm_training":
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.BatchNorm2d(4, affine=True),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ).train()
        file = FOLDER / f"{name}.onnx"
        torch.onnx.export(
            module,
            X,
            file,
            training=mode,
            do_constant_folding=False,
            dynamo=False,
            dynamic_axes=OPEN,
            **{"input_names": ["x"], "output_names": ["y"]},
        )
        module.train()
        frames = drawn(4, 3, 12, 12)
        with torch.no_grad():
            answers = [({"x": frame.numpy()}, {"y": module(frame[None])[0].numpy()}) for (frame,) in frames]
        kept.keep(name, "`training=TRAINING`: batch norm over the batch, as in training", file, answers)
    else:
        export(name, how, module, ONE, drawn(4, 3, 12, 12), axes=OPEN, training=mode, **NAMES)


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return torch.softmax(self.linear(x), dim=0)


export("softmax_over_batch", "`softmax(dim=0)`, a slip", Softmax(), torch.randn(2, 4), drawn(5, 4), axes=OPEN, **NAMES)


class Standardised(nn.Module):
    def forward(self, x):
        return (x - x.mean()) / (x.max() - x.min() + 1)


export(
    "whole_batch_norm",
    "`(x - x.mean()) / …`: over all rows",
    Standardised(),
    torch.randn(2, 4),
    drawn(5, 4),
    axes=OPEN,
    **NAMES,
)
export(
    "dropout_training",
    "`training=TRAINING`: dropout that draws",
    nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)),
    torch.randn(2, 4),
    drawn(4, 4),
    axes=OPEN,
    training=torch.onnx.TrainingMode.TRAINING,
    **NAMES,
)

# ---- what is sent ----


class Classes(nn.Module):
    def forward(self, x):
        return x.argmax(dim=1), x.topk(2, dim=1).values, x > 0


export(
    "classes",
    "`argmax` INT64 [batch], the best two, and a BOOL mask",
    Classes(),
    torch.randn(2, 5),
    drawn(5, 5),
    axes={name: {0: "batch"} for name in ("x", "best", "two", "positive")},
    inputs=["x"],
    outputs=["best", "two", "positive"],
)


@torch.jit.script
def repeated(x, turns: int):
    for _ in range(turns):
        x = torch.tanh(x) + 1
    return x


class Loop(nn.Module):
    def forward(self, x):
        return repeated(x, x.shape[1])


export("loop", "a scripted loop: ONNX's Loop", Loop(), torch.randn(2, 4), drawn(4, 4), axes=OPEN, **NAMES)


class Parts(nn.Module):
    def forward(self, x):
        return torch.split(x, 2, dim=1)


parts = torch.jit.script(Parts())
file = FOLDER / "sequence.onnx"
torch.onnx.export(
    parts,
    torch.randn(2, 5),
    file,
    input_names=["x"],
    output_names=["parts"],
    dynamic_axes={"x": {0: "batch"}},
    dynamo=False,
)
kept.keep("sequence", "a list of tensors from a scripted `split`", file, [])


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.kinds, self.head = nn.Embedding(30, 4), nn.Embedding(2, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask, token_type_ids):
        mask = attention_mask[..., None].float()
        states = (self.words(input_ids) + self.kinds(token_type_ids)) * mask
        return states, self.head(states.sum(1) / mask.sum(1))


def sentence(length):
    kinds = torch.zeros(length, dtype=torch.int64)
    kinds[length // 2 :] = 1
    mask = torch.ones(length, dtype=torch.int64)
    return torch.randint(30, (length,)), mask, kinds


TOKENS = ["input_ids", "attention_mask", "token_type_ids"]
export(
    "text",
    "as optimum exports encoders: three INT64 [batch, sequence]",
    Text(),
    tuple(torch.stack([part, part]) for part in sentence(6)),
    [sentence(5), sentence(8), sentence(5), sentence(3)],
    axes={name: {0: "batch_size", 1: "sequence_length"} for name in [*TOKENS, "last_hidden_state"]}
    | {"logits": {0: "batch_size"}},
    inputs=TOKENS,
    outputs=["last_hidden_state", "logits"],
)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x, need_weights=False)[0]


export(
    "attention",
    "multi-head attention over sequences of any length, `dynamo=True`, opset 23",
    Attention(),
    (torch.randn(2, 5, 8),),
    [*drawn(2, 6, 8), *drawn(2, 3, 8)],
    axes=({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")},),
    dynamo=True,
    external_data=False,
    opset_version=23,
)


class Decoder(nn.Module):
    """A step of a decoder with what it keeps of the past, which is empty at first."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 4), nn.Linear(4, 20)

    def forward(self, input_ids, past):
        present = torch.cat([past, self.words(input_ids)], 1)
        return self.head(present.mean(1)), present


export(
    "decoder_with_past",
    "a decoder with the past as input and output: at first it is empty",
    Decoder(),
    (torch.randint(20, (2, 1)), torch.randn(2, 3, 4)),
    [(torch.randint(20, (1,)), torch.randn(past, 4)) for past in (0, 1, 2, 0, 5)],
    axes={
        "input_ids": {0: "batch", 1: "sequence"},
        "past": {0: "batch", 1: "past_sequence"},
        "logits": {0: "batch"},
        "present": {0: "batch", 1: "past_sequence + sequence"},
    },
    inputs=["input_ids", "past"],
    outputs=["logits", "present"],
)


class Spectrogram(nn.Module):
    def forward(self, sound):
        window = torch.hann_window(16)
        return torch.view_as_real(torch.stft(sound, 16, 8, window=window, return_complex=True)).square().sum(-1)


try:
    export(
        "spectrogram",
        "`torch.stft` of sound [batch, 64], `dynamo=True`",
        Spectrogram(),
        (torch.randn(2, 64),),
        drawn(4, 64),
        axes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
    )
except Exception as error:
    print("spectrogram:", str(error)[:300])
export(
    "audio",
    "sound [batch, samples] of any length",
    nn.Sequential(
        nn.Unflatten(1, (1, -1)),
        nn.Conv1d(1, 4, 9, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ),
    torch.randn(2, 160),
    [*drawn(2, 320), *drawn(2, 200)],
    axes={"x": {0: "batch", 1: "samples"}, "y": {0: "batch"}},
    **NAMES,
)
export(
    "segmentation",
    "pictures and masks of any size",
    nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    torch.randn(2, 3, 8, 8),
    [*drawn(2, 3, 8, 12), *drawn(2, 3, 16, 8)],
    axes={"x": {0: "n", 2: "h", 3: "w"}, "y": {0: "n", 2: "h", 3: "w"}},
    **NAMES,
)


class Bytes(nn.Module):
    def forward(self, picture, mask):
        return (picture.float() / 255 * mask[:, None]).mean(dim=(2, 3)), mask.flatten(1).any(dim=1)


export(
    "uint8_and_bool",
    "a UINT8 picture and a BOOL mask",
    Bytes(),
    (torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.zeros(2, 6, 6, dtype=torch.bool)),
    [(torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8), torch.rand(6, 6) > 0.5) for _ in range(4)],
    axes={name: {0: "batch"} for name in ("picture", "mask", "means", "seen")},
    inputs=["picture", "mask"],
    outputs=["means", "seen"],
)
export(
    "double",
    "float64",
    nn.Linear(4, 3).double(),
    torch.randn(2, 4).double(),
    [(torch.randn(4).double(),) for _ in range(4)],
    axes=OPEN,
    **NAMES,
)
export(
    "half",
    "`model.half()`: FP16 in and out",
    nn.Linear(4, 3).half(),
    torch.randn(2, 4).half(),
    [(torch.randn(4).half(),) for _ in range(4)],
    axes=OPEN,
    **NAMES,
)
brain = nn.Linear(4, 3).bfloat16().eval()
file = FOLDER / "bfloat16.onnx"
torch.onnx.export(
    brain, torch.randn(2, 4).bfloat16(), file, input_names=["x"], output_names=["y"], dynamic_axes=OPEN, dynamo=False
)
kept.keep("bfloat16", "`model.bfloat16()`: bfloat16 in and out", file, [])
export(
    "odd_names",
    "names with a slash, a colon and blanks",
    nn.Linear(4, 3),
    torch.randn(2, 4),
    drawn(4, 4),
    inputs=["images/left eye:0"],
    outputs=["head/box scores:0"],
    axes={"images/left eye:0": {0: "N"}, "head/box scores:0": {0: "N"}},
)


class Threshold(nn.Module):
    def forward(self, x, threshold):
        return torch.where(x > threshold, x, torch.zeros_like(x))


export(
    "scalar_input",
    "a threshold as an input without dimensions",
    Threshold(),
    (torch.randn(2, 4), torch.tensor(0.5)),
    [],
    axes=OPEN,
    inputs=["x", "threshold"],
    outputs=["y"],
)
frames = drawn(5, 4)
kept.keep(
    "scalar_input",
    "a threshold as an input without dimensions",
    FOLDER / "scalar_input.onnx",
    [({"x": frame.numpy()}, {"y": Threshold()(frame, 0.5).numpy()}) for (frame,) in frames],
    "[constants]\nthreshold = 0.5\n",
)


class Mean(nn.Module):
    def forward(self, x):
        return x * 2, x.abs().mean()


file = FOLDER / "scalar_output.onnx"
torch.onnx.export(
    Mean(), torch.randn(2, 4), file, input_names=["x"], output_names=["y", "level"], dynamic_axes=OPEN, dynamo=False
)
kept.keep(
    "scalar_output",
    "one number for the whole batch beside the answers",
    file,
    [({"x": frame.numpy()}, {"y": (frame * 2).numpy()}) for (frame,) in frames],
    '[[output]]\nname = "y"\n',
)


class Anchors(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.rand(5, 4))

    def forward(self, x):
        return x * 2, self.anchors


file = FOLDER / "constant_output.onnx"
torch.onnx.export(
    Anchors(),
    torch.randn(2, 4),
    file,
    input_names=["x"],
    output_names=["y", "anchors"],
    dynamic_axes=OPEN,
    dynamo=False,
)
kept.keep(
    "constant_output",
    "anchors that are the same for every picture",
    file,
    [({"x": frame.numpy()}, {"y": (frame * 2).numpy()}) for (frame,) in frames],
    '[[output]]\nname = "y"\n',
)


class Detector(nn.Module):
    """The last step of torchvision's detectors, on boxes and scores: as many rows as there are objects."""

    def forward(self, boxes, scores):
        kept = torchvision.ops.nms(boxes, scores, 0.5)
        return boxes[kept], scores[kept]


frames = []
for _ in range(5):
    corner = torch.rand(8, 2)
    frames.append((torch.cat([corner, corner + torch.rand(8, 2) + 0.1], 1), torch.rand(8)))
export(
    "detections_unbatched",
    "the objects of one picture, as torchvision's detectors give them: as many rows as there are",
    Detector(),
    frames[0],
    frames,
    "batched = false\n",
    batched=False,
    inputs=["boxes", "scores"],
    outputs=["kept_boxes", "kept_scores"],
    axes={"kept_boxes": {0: "objects"}, "kept_scores": {0: "objects"}},
)


class Flat(nn.Module):
    """YOLOv7's end-to-end head: the rows of all pictures below each other, with the picture's number first."""

    def forward(self, scores):
        picture, index = (scores > 0.5).nonzero(as_tuple=True)
        return torch.stack([picture.float(), index.float(), scores[picture, index]], 1)


export(
    "detections_flat",
    "the objects of all pictures below each other, each with its picture's number",
    Flat(),
    torch.rand(2, 8),
    [],
    axes={"scores": {0: "batch"}, "objects": {0: "objects"}},
    inputs=["scores"],
    outputs=["objects"],
)
frames = [(torch.rand(1, 8),) for _ in range(5)] + [(torch.zeros(1, 8),)]
kept.keep(
    "detections_flat",
    "the objects of all pictures below each other, each with its picture's number first",
    FOLDER / "detections_flat.onnx",
    [({"scores": frame.numpy()}, {"objects": Flat()(frame).numpy()}) for (frame,) in frames],
    "batched = false\n",
)
