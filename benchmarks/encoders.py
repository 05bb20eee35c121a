"""Exported encoders of MobileCLIP and FastVLM compute what timm's networks compute in float64; nothing is timed.

The weights are drawn, and go the way of a user's: timm's state dict becomes a file, in training form and
re-parameterised, and `export` reads it. timm's network in float64, in training form, computes the reference. So nothing
of this project takes part in it, but for the images.
"""

import argparse
import gc
import importlib
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _report import say

from fastvit_bench import backends
from fastvit_bench.backends import Images, output_names
from fastvit_bench.errors import UnavailableError
from fastvit_bench.exporting import checkpoints, pipeline, verification
from fastvit_bench.network.peers.timm import load
from fastvit_bench.network.registry import ENCODERS, find
from fastvit_bench.records import Device, Fuse, Head, ModelSpec, Parity, Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

DEVICES = {
    "onnx": Device(name="onnx", backend="onnxruntime", precision="fp32"),
    "coreml": Device(name="coreml", backend="coreml", precision="fp16"),
}
MOST = {"onnx": 1e-3, "coreml": 3e-2}  # largest error over the standard deviation of the outputs
MOST_RMS = 2e-2  # of FastVLM's tokens in FP16, as the proof has it: see the note in benchmarks/README.md
FORMS = ("training", "fused")
TOKENS = "fastvithd"  # timm has it as `fastvit_mci3`; transformers keeps it below this prefix
PREFIX = {TOKENS: "model.vision_tower.timm_model."}


def drawn(name: str, seed: int) -> "nn.Module":
    """A network of timm's in training form, with weights on which every branch matters."""
    from fastvit_bench.network.random_weights import randomise

    network = load().create_model("fastvit_mci3" if name == TOKENS else name).eval()
    randomise(network, seed)
    return network


def write(network: "nn.Module", name: str, form: str, path: Path) -> None:
    """Write the weights as a file of somebody's; FastVLM's without a head."""
    import safetensors.torch

    if form == "fused":
        network = importlib.import_module("timm.utils.model").reparameterize_model(network)
    kept = {key: value for key, value in network.state_dict().items() if name != TOKENS or not key.startswith("head.")}
    safetensors.torch.save_file({PREFIX.get(name, "") + key: value for key, value in kept.items()}, path)


def computed(network: Any, name: str, images: "Tensor") -> "Tensor":
    """The outputs of timm's network: embeddings (N, width), or features at each position (N, positions, C)."""
    import torch

    with torch.inference_mode():
        return network.forward_features(images).flatten(2).transpose(1, 2) if name == TOKENS else network(images)


def reference(network: "nn.Module", name: str, shape: Shape, form: Images) -> verification.ReferenceOutputs:
    """The outputs of timm's network for the fixed images of a shape."""
    import torch

    head, how = (Head.TOKENS if name == TOKENS else Head.EMBEDDING), find(name).preparation
    batches = (torch.from_numpy(verification.normalised(batch, how)) for batch in verification.images(shape, form))
    values = tuple({output_names(1, head)[0]: computed(network, name, batch).numpy()} for batch in batches)
    return verification.ReferenceOutputs(form, shape, head, "timm's network in float64", values)


def proofs(name: str, targets: list[str], shapes: list[Shape], seed: int) -> Iterator[tuple[str, str, Shape, Parity]]:
    """Yield the target, the form of the weight file, the shape, and the errors of an export of it."""
    known: dict[tuple[str, Shape], verification.ReferenceOutputs] = {}
    with tempfile.TemporaryDirectory() as folder:
        network = drawn(name, seed)
        weights = {form: Path(folder, f"{form}.safetensors") for form in FORMS}
        for form, path in weights.items():
            write(network, name, form, path)
        network = network.double()
        for target in targets:
            for shape in shapes:
                say(f"{name} {shape.size}: timm's network in float64, for {target}")
                images = Images.PIXELS if target == "coreml" else Images.TENSOR
                known[target, shape] = reference(network, name, shape, images)
        del network
        gc.collect()
        for (target, shape), expected in known.items():
            for form, path in weights.items():
                say(f"{name} {shape.size}: exporting for {target}, from {form} weights")
                yield target, form, shape, exported(name, target, shape, path, expected)


def exported(name: str, target: str, shape: Shape, weights: Path, known: verification.ReferenceOutputs) -> Parity:
    """Export a weight file, and compare the file's outputs with the reference's."""
    spec, device = ModelSpec(name=name, variant=name, checkpoint=str(weights)), DEVICES[target]
    with tempfile.TemporaryDirectory() as folder:
        identity = checkpoints.weights_of(spec, 0)
        asked = pipeline.job(spec, identity, shape, Fuse.FOLDED, device, folder=Path(folder))
        artifact = pipeline.export(asked)
        path = Path(asked.path).with_name(artifact.path)
        (run,) = backends.get(device.backend).verification_sessions(path, asked)
        with run.session as session:
            return verification.prove(known, session, device.precision)


def judged(name: str, target: str, parity: Parity) -> tuple[bool, str]:
    """Whether the errors are within what is allowed, and that limit in words."""
    if (name, target) == (TOKENS, "coreml"):
        return parity.rms_error is not None and parity.rms_error <= MOST_RMS, f"{MOST_RMS:.0e} (root mean square)"
    return 0 <= parity.relative_error <= MOST[target], f"{MOST[target]:.0e}"


def main() -> int:
    """Export and compare the chosen encoders; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", choices=list(ENCODERS), default=list(ENCODERS), metavar="MODEL")
    options.add_argument("--targets", nargs="+", choices=list(DEVICES), default=list(DEVICES), metavar="TARGET")
    options.add_argument("--res", nargs="+", default=["128"], help="sizes: 256, 192x320 (height x width) (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the weights (%(default)s)")
    asked: Any = options.parse_args()
    try:
        load()
    except UnavailableError as error:
        sys.exit(f"error: {error}")
    sides = [text.partition("x") for text in asked.res]
    shapes = [Shape(batch=1, height=int(height), width=int(width or height)) for height, _, width in sides]
    missed = 0
    print("| network | size | weights | file | largest error | root mean square | allowed | peak GiB |")
    print("| --- | --: | --- | --- | --: | --: | --: | --: |")
    for name in asked.models:
        for target, form, shape, parity in proofs(name, asked.targets, shapes, asked.seed):
            within, allowed = judged(name, target, parity)
            missed += not within
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            figures = f"{parity.relative_error:.1e} | {parity.rms_error:.1e} | {allowed} | {peak:.1f}"
            file = f"{target} {DEVICES[target].precision}"
            print(f"| `{name}` | {shape.size} | {form} | {file} | {figures} |", flush=True)
    say(f"{'missed' if missed else 'met'}: every error is within what is allowed")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
