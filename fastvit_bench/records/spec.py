"""Records of a request: model, shape, device, weights, and the method of measuring."""

from enum import StrEnum
from typing import Literal

import msgspec


class Head(StrEnum):
    """The last part of a network: classifier, dense feature maps, segmenter or detector (docs/explanation/dense.md).

    ``embedding`` is the mean of the features, projected, as CLIP compares it with a text. ``tokens`` are the features
    at each position, as a language model takes them.

    ``dense`` and ``stages`` are the backbone alone. They differ where a positional encoding precedes the fourth stage:
    the published dense network returns the encoding, and ``stages`` the stage. ``features`` are the maps of the stages
    without the norms that those two have behind them, as timm's ``features_only`` returns them.
    """

    CLASSIFIER = "classifier"
    DENSE = "dense"
    STAGES = "stages"
    FEATURES = "features"
    SEGMENTER = "semantic-fpn"
    DETECTOR = "fpn-rpn"
    EMBEDDING = "embedding"
    TOKENS = "tokens"


class Fuse(StrEnum):
    """The level to which constant algebra of the network is computed ahead of time.

    ``none``: the network in its training form. ``fused``: every re-parameterisable block is one convolution, as in the
    published fused checkpoints. ``folded``: the remaining BatchNorms, layer scales and attention scale are merged too.
    """

    NONE = "none"
    FUSED = "fused"
    FOLDED = "folded"


class Window(StrEnum):
    """The work between the two readings of the clock."""

    COMPUTE = "compute"  # run + wait; the input is on the device, the output stays there
    PREDICTION = "prediction"  # the toolkit's own timing around its native call, from input buffers to output buffers
    END_TO_END = "end-to-end"  # the toolkit's one call from Python, with copies and conversions of inputs and outputs


class CallPattern(StrEnum):
    """The activity between two samples."""

    BACK_TO_BACK = "back-to-back"  # none: the next run starts at once
    REMOTE_CALL = "remote-call"  # each run is requested over a cable, and the device idles in between


ONNX = "onnx"  # the variant of a model that is a user's ONNX file


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every record: frozen, keyword-only fields, unknown fields refused."""


Gelu = Literal["erf", "tanh"]  # how GELU is computed: exactly, or by the approximation that some networks train with


class Shape(Record, frozen=True, order=True, omit_defaults=True):
    """The size of one input batch: `batch` images of `height` x `width` pixels with `channels` values each."""

    batch: int
    height: int
    width: int
    channels: int = 3  # of RGB; networks of depth maps, several frames or other sensors have others

    @property
    def size(self) -> str:
        """Image size as text: ``256`` for a square, ``256x384`` (height x width) otherwise."""
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    @property
    def nchw(self) -> tuple[int, int, int, int]:
        """Tensor shape (N, C, H, W)."""
        return (self.batch, self.channels, self.height, self.width)

    @property
    def nhwc(self) -> tuple[int, int, int, int]:
        """Shape (N, H, W, C) of 8-bit pixels."""
        return (self.batch, self.height, self.width, 3)


Triple = tuple[float, float, float]  # one value for each of red, green and blue
Resize = Literal["shorter-side", "squash", "pad"]  # see `records.preparation.Preparation`
Interpolation = Literal["bicubic", "bilinear", "lanczos", "hamming", "box", "nearest"]


class ModelSpec(Record, frozen=True):
    """A model as declared in ``[model.NAME]`` of benchmark.toml."""

    name: str
    variant: str  # a network of `fastvit-bench models`, of timm (``timm:NAME``), or ``onnx`` for an ONNX file
    head: Head = Head.CLASSIFIER  # last part of the network
    classes: int = 1000  # outputs of a classifier
    channels: int = 3  # of the images, for random weights; a checkpoint's first convolution decides
    checkpoint: str | None = None  # path, relative to the configuration file
    sha256: str | None = None  # expected hash of the checkpoint
    weights: str | None = None  # the network to take from a checkpoint with several, by the name of its entry
    gelu: Gelu = "erf"  # tanh: the approximation, for weights that were trained with it; no file says so
    resolution: int = 256  # evaluation size in pixels
    pad: bool = False  # whether sides that are no multiple of the network's stride are padded, by zeros
    normalize: bool = False  # whether the file divides embeddings by their L2 norm
    # of the preparation of its images; what is left out comes from beside the weights, or is the network's own
    crop: float | None = None  # side of the square that is cut from the middle, over the side that was resized to
    mean: Triple | None = None  # of red, green and blue, which is subtracted from pixel / 255
    std: Triple | None = None  # of red, green and blue, which the difference is divided by
    resize: Resize | None = None  # the shorter side, both sides, or a square that is padded with the mean
    interpolation: Interpolation | None = None  # filter of Pillow's
    published: str | None = None  # the model's name in results/published


CALIBRATED = ("int8", "w8a8")  # precisions that need images for the ranges of activations
CALIBRATION_IMAGES = 128  # default number of images that ranges of activations are measured on
MOST_CALIBRATION_IMAGES = 10**6


class Device(Record, frozen=True):
    """A device profile as declared in ``[device.NAME]`` of benchmark.toml."""

    name: str
    backend: str  # toolkit that runs the exported file
    precision: str = "fp32"  # fp32, fp16, bf16, int8, w8 or w8a8: arithmetic of the exported file
    batch: int = 1  # images per run
    match: str | None = None  # text that the detected hardware's name must contain
    calibration: str | None = None  # folder of images, for int8; relative to the configuration file
    calibration_images: int = CALIBRATION_IMAGES  # how many are drawn from it
    options: dict[str, str | int | float | bool] = {}  # of the backend


class GraphVariant(Record, frozen=True):
    """The choice among equivalent graphs of a network for a toolkit; the outputs do not depend on it."""

    std: Triple | None = None  # that the network divides images by, which are pixel / 255 - mean; None: it is done
    doubling: Literal["split", "grouped"] = "split"  # convolutions with two outputs per input channel: as two or one
    attention: Literal["batched", "per-head"] = "batched"  # all heads in one matrix product, or one product each
    norms: Literal["batchnorm", "depthwise"] = "batchnorm"  # the norms before the dense network's outputs


DRAW = 2  # version of `network.random_weights`; raised when a seed gives different weights


class Weights(Record, frozen=True):
    """The origin of a network's weights: a checkpoint's hash or a seed."""

    origin: Literal["checkpoint", "random"]
    sha256: str | None = None  # of the checkpoint file; of its entries where that is in parts, or beyond 4 GiB
    file: str | None = None  # its name, without folders
    seed: int | None = None  # of random weights
    draw: int = 1  # of random weights: the value of `DRAW` that they were drawn with
    entry: str | None = None  # of a file with several whole networks: the name in front of this one's entries

    @property
    def label(self) -> str:
        """Short form for tables: ``random(seed 0)``, or the file's name, an entry of it, and first hash digits."""
        if self.origin == "random":
            return f"random(seed {self.seed})"
        entry = f"[{self.entry}]" if self.entry else ""
        return f"{self.file}{entry}@{(self.sha256 or '')[:8]}"


class Statistic(StrEnum):
    """The statistic that reduces samples to one figure."""

    MEDIAN = "median"  # of all samples of all rounds
    TRIMMED_MEAN = "trimmed-mean"  # of each round, without its lowest and highest samples; then the mean over rounds


class Method(Record, frozen=True):
    """The method of measuring a latency: warm-up, runs, rounds and statistic."""

    warmup: int = 10  # untimed runs before the first timed one of a round
    runs: int = 100  # timed runs per round
    rounds: int = 1  # repetitions of warm-up and runs
    statistic: Statistic = Statistic.MEDIAN
    trim: int = 0  # samples that a trimmed mean drops at either end of a round
    loading: Literal["once", "per-round"] = "once"  # of the file
    warmup_ms: int = 0  # least duration of the warm-up, by the clock that times the runs
    steady: float = 0.0  # warm-up ends once the medians of 20 runs and of the previous 20 differ by less
    duration_ms: int = 0  # least duration of the timed runs, so that there may be more than `runs`
    processes: int = 1  # fresh ones over which warm-up and timed runs are spread; each is a round of the samples


PROCESSES = 4  # default, so that one figure includes the differences between processes


class Protocol(StrEnum):
    """The named methods of measuring."""

    MEDIAN100 = "median100"
    MODELBENCH = "modelbench"
    PAPER = "paper"
    TRTEXEC = "trtexec"


# ModelBench is the app that the published iPhone latencies were made with (apple/ml-mobileone, ViewController.swift)
METHODS = {
    Protocol.MEDIAN100: Method(),
    Protocol.MODELBENCH: Method(
        warmup=1, runs=50, rounds=20, statistic=Statistic.TRIMMED_MEAN, trim=10, loading="per-round"
    ),
    Protocol.PAPER: Method(warmup=20, warmup_ms=200, steady=0.01),
    Protocol.TRTEXEC: Method(warmup=0, warmup_ms=200, runs=10, duration_ms=3000),
}


class Setting(Record, frozen=True):
    """The device settings that a protocol prescribes besides its method."""

    precision: str | None = None
    batch: int | None = None
    options: dict[str, str | int | float | bool] = {}


# The paper (section 4): batches of 8 on an RTX 2080 Ti with TensorRT 8.0.1.6, the median of 100 runs. It does not state
# the precision, so FP16 is assumed. By default TensorRT 8.0 replays no graph and does not spin. trtexec: the defaults
# of TensorRT 11 (samples/common/sampleOptions.h), but one run at a time, where trtexec keeps two in flight.
SETTINGS = {
    Protocol.PAPER: Setting(precision="fp16", batch=8, options={"graph": False, "transfers": False, "sync": "block"}),
    Protocol.TRTEXEC: Setting(options={"graph": True, "transfers": False, "sync": "spin"}),
}


class ModelFacts(Record, frozen=True):
    """Facts about a model that are known before any export."""

    spec: ModelSpec
    params: dict[Fuse, int]  # counted on the network, at each level
    gmacs: float  # 10^9 multiply-accumulates of the folded network for one image at `spec.resolution`
    checkpoints: tuple[str, ...]  # names of its files in the models folder
    stored_bytes: int = 0  # in its folder there
