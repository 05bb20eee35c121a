"""Published figures of FastViT and its peers, as data; this tool measured none of them."""

import csv
import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, NamedTuple, cast

from fastvit_bench import files
from fastvit_bench.errors import ConfigError
from fastvit_bench.records import Record


class Published(Record, frozen=True):
    """The published figures of one model at one image size; None where nobody printed one."""

    name: str  # as the paper's tables write it
    size: int  # pixels of the square evaluation image
    params_m: "Figure | None"  # paper, millions
    flops_g: "Figure | None"  # paper; its FLOPs are multiply-accumulates of one image
    top1: "Figure | None"  # paper, percent on ImageNet-1k
    top1_distilled: "Figure | None"  # paper
    released_top1: "Figure | None"  # of the checkpoints the authors released
    released_top1_distilled: "Figure | None"
    timm_top1: "Figure | None"  # weights of the same training, evaluated by timm
    timm_top1_distilled: "Figure | None"
    timm_params_m: "Figure | None"  # re-parameterised
    timm_gmacs: "Figure | None"  # re-parameterised, one image
    iphone_ms: "Figure | None"  # paper, iPhone 12 Pro, Core ML, batch 1
    gpu_ms: "Figure | None"  # paper, RTX 2080 Ti, TensorRT, batch 8

    @property
    def label(self) -> str:
        """The name with the image size: ``FastViT-T8@256``."""
        return f"{self.name}@{self.size}"

    @property
    def top1_undistilled(self) -> "Figure | None":
        """The authors' top-1 without distillation: of the checkpoint they released, else the paper's.

        The paper compares accuracy and latency in table 5, without distillation, as its peers were trained. The
        released checkpoints are what a person can download and evaluate, and score up to 0.6 points more than printed.
        """
        return self.released_top1 or self.top1


class PublishedEncoder(Record, frozen=True):
    """The published figures of a model that has an image encoder of the family; None where nobody printed one."""

    name: str  # of the model, such as MobileCLIP-S0
    params_m: "Figure | None"  # of the image encoder, millions
    phone_ms: "Figure | None"  # of the image encoder, iPhone 12 Pro Max, Core ML, one image of 256 x 256
    zero_shot_top1: "Figure | None"  # percent on ImageNet-1k


Status = Literal["sourced", "digitised", "derived"]  # printed in the source, read off its plot, computed or judged


class Figure(Record, frozen=True):
    """A published number with its unit, its source and the way it was taken from there."""

    value: float
    unit: str
    source: str
    status: Status


class FigurePlace(NamedTuple):
    """The place of a published value: ``("table5_imagenet", "FastViT-T8@256", "mobile_latency")``."""

    table: str
    model: str
    column: str


class Printed(Record, frozen=True):
    """A value as it is printed, with its digits."""

    text: str
    unit: str
    source: str
    status: Status

    @property
    def value(self) -> float | None:
        """The value as a number; None where the tables print a dash (``NA``) or words."""
        try:
            return float(self.text)
        except ValueError:
            return None


def find(name: str) -> Published:
    """Return a model by its published name: ``FastViT-T8``, or ``FastViT-SA36@384`` for another than its smallest size.

    Raises `ConfigError` with the nearest names where there is none.
    """
    known = models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:3]
        raise ConfigError(f"Nothing is published under the name '{name}'. Nearest: {', '.join(near)}.")
    return known[name]


@cache
def models() -> Mapping[str, Published]:
    """Return every published model as ``NAME@SIZE``, and at its smallest size as ``NAME`` too."""
    figures = _figures()
    by_name: dict[str, Published] = {}
    for name, size in sorted({_name_and_size(key) for table, key, _ in figures if table in _SIZED}):
        # figures without a size are those of the smallest one
        keys = (f"{name}@{size}",) if name in by_name else (f"{name}@{size}", name)
        fields = {
            field: next(
                (figures[at] for t, c in places for key in keys if (at := FigurePlace(t, key, c)) in figures), None
            )
            for field, places in _PLACES.items()
        }
        model = Published(name=name, size=size, **fields)
        by_name.setdefault(name, model)
        by_name[model.label] = model
    return MappingProxyType(by_name)


@cache
def encoders() -> Mapping[str, tuple[PublishedEncoder, ...]]:
    """Return the models that were published with each image encoder, by its network's name in the registry."""
    figures: dict[str, dict[str, dict[str, Figure]]] = {}
    for row in _rows(_ENCODERS):
        of_model = figures.setdefault(row["network"], {}).setdefault(row["model"], {})
        if row["column"] in _ENCODER_COLUMNS:
            of_model[row["column"]] = Figure(
                value=float(row["value"]), unit=row["unit"], source=row["source"], status=cast(Status, row["status"])
            )
    return MappingProxyType(
        {
            network: tuple(
                PublishedEncoder(name=name, **{field: own.get(column) for column, field in _ENCODER_COLUMNS.items()})
                for name, own in models_.items()
            )
            for network, models_ in figures.items()
        }
    )


_ENCODERS = "encoders.csv"
_ENCODER_COLUMNS = {"params": "params_m", "mobile_latency": "phone_ms", "zero_shot_top1": "zero_shot_top1"}
_PAPER = "paper_tables.csv"
_TIMM = "timm_reference.csv"

# tables of the paper that name models with their image size
_SIZED = ("table5_imagenet", "table6_distillation")

# field of `Published` -> places of its figure as (table, column); the first that has one counts
_PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "params_m": (("table5_imagenet", "params"), ("table6_distillation", "params")),
    "flops_g": (("table5_imagenet", "flops"), ("table6_distillation", "flops")),
    "top1": (("table5_imagenet", "top1"),),
    "top1_distilled": (("table6_distillation", "top1"),),
    "released_top1": (("readme_zoo", "top1"), ("mobileone_readme", "top1")),
    "released_top1_distilled": (("readme_zoo", "top1_distilled"),),
    "timm_top1": (("timm T5", "top1"),),
    "timm_top1_distilled": (("timm T6", "top1"),),
    "timm_params_m": (("timm T5", "rtx4090_param_count_M"), ("timm T6", "rtx4090_param_count_M")),
    "timm_gmacs": (("timm T5", "rtx4090_gmacs"), ("timm T6", "rtx4090_gmacs")),
    "iphone_ms": (("table5_imagenet", "mobile_latency"), ("table6_distillation", "mobile_latency")),
    "gpu_ms": (("table5_imagenet", "gpu_latency"), ("table6_distillation", "gpu_latency")),
}

# column of timm's results -> its unit and the file of timm's repository it comes from; of the benchmark files only
# this one and the later ones count re-parameterised networks
_TIMM_COLUMNS: dict[str, tuple[str, str]] = {
    "top1": ("%", "results-imagenet.csv"),
    "param_count_M": ("M", "results-imagenet.csv"),  # as trained
    "rtx4090_param_count_M": ("M", "benchmark-infer-amp-nchw-pt291-cu128-4090.csv"),
    "rtx4090_gmacs": ("G", "benchmark-infer-amp-nchw-pt291-cu128-4090.csv"),
}


@cache
def printed() -> Mapping[FigurePlace, Printed]:
    """Return every printed value of the files by its place.

    Of timm's results these are the columns in `_TIMM_COLUMNS`, in the tables ``timm T5`` and ``timm T6``.
    """
    values: dict[FigurePlace, Printed] = {}
    for row in _rows(_PAPER):
        place = FigurePlace(row["table"], row["model"], row["column"])
        values[place] = Printed(
            text=row["value"], unit=row["unit"], source=row["source"], status=cast(Status, row["status"])
        )
    for row in _rows(_TIMM):
        if row["closest_to_paper"] != "yes":  # other weights or another training
            continue
        for column, (unit, file) in _TIMM_COLUMNS.items():
            place = FigurePlace(f"timm {row['paper_table']}", f"{row['paper_model']}@{row['img_size']}", column)
            source = f"timm {row['timm_model']} at {row['img_size']}, {file}"
            values[place] = Printed(text=row[column], unit=unit, source=source, status="sourced")
    return MappingProxyType(values)


def _figures() -> dict[FigurePlace, Figure]:
    """Return every value that is a number, by its place."""
    return {
        place: Figure(value=value, unit=cell.unit, source=cell.source, status=cell.status)
        for place, cell in printed().items()
        if (value := cell.value) is not None
    }


def _rows(file: str) -> Iterator[dict[str, str]]:
    with (files.find("published") / file).open(encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def _name_and_size(key: str) -> tuple[str, int]:
    name, _, size = key.rpartition("@")
    return name, int(size)
