"""Core ML packages for iOS 16: written through coremltools, read back and evaluated anywhere, run on Apple hardware."""

import importlib.util
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench import files, install
from fastvit_bench.backends import INPUT, Hardware, Session, VerificationRun, output_names
from fastvit_bench.backends._silence import silenced
from fastvit_bench.backends._text import normalisation
from fastvit_bench.backends.coreml import quantise
from fastvit_bench.errors import ChecksumError, FastViTBenchError, ParityError, UnavailableError, UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import Device, ExportJob, ExportSpec, Fuse, GraphVariant, Head, LayerTime, Shape, Traffic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.backends import Batch

# option -> allowed values, the default first; `input` has another default for batches, see `CoreML.options`
CHOICES = {
    "input": ("image", "tensor"),
    "attention": ("standard", "conv"),
    "compress": ("none", "int8", "palette6", "palette4"),
    "compute_units": ("all", "cpu-only", "cpu-and-gpu", "cpu-and-ne"),
    "window": ("prediction", "end-to-end"),
    "location": ("this-mac", "connected"),
}
TEXTS = {"team": ""}  # option that takes any text -> its default

APPLE_ONLY = (
    "Core ML runs on Apple hardware only; export here, time the package there (Xcode's Performance tab, or "
    "this tool on a Mac), and import the report: fastvit-bench import FILE.mlperf --device {}"
)


class CoreML:
    """A backend that writes ML Programs through coremltools and runs them on Apple hardware.

    They have spec version 7 (iOS 16), 8 (iOS 17) with 8-bit activations, or 9 (iOS 18) where one package takes several
    sizes.
    """

    name = "coreml"
    target = "coreml"
    suffix = ".mlpackage"
    precisions = ("fp16", "fp32", *quantise.PRECISIONS)
    packages = ("torch", "coremltools", "numpy")
    proof_packages = ("coremltools", "numpy", "torch")
    export_options = ("input", "attention", "compress")
    engines = None
    rounder = quantise
    flags = (*export_options, "classifier", "multifunction")
    accepts_external_onnx = False

    def unavailable_reason(self, device: Device | None = None) -> str | None:
        """Return why packages cannot be written here, or None.

        coremltools must be installed with the native library that writes weights; it is not imported.
        """
        spec = importlib.util.find_spec("coremltools")
        if spec is None or spec.origin is None:
            return f"the package coremltools is not installed; run: {install.packages('coremltools>=9.0')}"
        # pip falls back to a wheel without native code where there is none for this Python
        if not list(Path(spec.origin).parent.glob("libmilstoragepython*")):
            return (
                "coremltools is installed without its native library, for which there is no wheel for this Python; "
                f"use Python 3.11 to 3.13 and run: {install.pip('install', '--force-reinstall', 'coremltools')}"
            )
        if device is None:
            return None
        compress = str(device.options.get("compress", ""))
        return _uncompressible_reason(compress) or quantise.unavailable_reason(device.precision)

    def device_unavailable_reason(self, device: Device) -> str | None:
        """Return why the device cannot be used from here, or None; Core ML runs on Apple hardware only."""
        if sys.platform != "darwin":  # known without importing what calls the hardware
            return APPLE_ONLY.format(device.name)
        from fastvit_bench.backends.coreml import device as devices

        return devices.device_unavailable_reason(device)

    def detect_hardware(self, device: Device) -> Hardware | None:
        """Return the connected iPhone or iPad, or None for this Mac."""
        from fastvit_bench.backends.coreml import device as devices

        return devices.detect_hardware(device)

    def warmup_policy(self, device: Device) -> Mapping[str, float]:
        """Return no settings: a device is warmed up by runs alone."""
        return {}

    def runtime_packages(self, device: Device) -> tuple[str, ...]:
        """Return coremltools, which makes the calls on this Mac; Xcode's tools call a connected device."""
        return ("coremltools",)

    def options(self, device: Device) -> dict[str, str | int | float | bool]:
        """Return the options of `CHOICES` and `TEXTS`, with defaults filled in.

        By default, single images are taken as images and batches as tensors. Raises `UsageError` for unknown options
        and values.
        """
        known = {**CHOICES, **TEXTS}
        unknown = device.options.keys() - known.keys()
        if unknown:
            raise UsageError(
                f"Device '{device.name}' has an unknown option '{min(unknown)}'. Known: {', '.join(sorted(known))}."
            )
        options: dict[str, str | int | float | bool] = {}
        for name, values in CHOICES.items():
            default = "tensor" if name == "input" and device.batch > 1 else values[0]
            options[name] = device.options.get(name, default)
            if options[name] not in values:
                raise UsageError(f"Device '{device.name}': {name} = {options[name]!r} must be {' or '.join(values)}.")
        for name, default in TEXTS.items():
            options[name] = str(device.options.get(name, default))
        if options["input"] == "image" and device.batch > 1:
            raise UsageError(
                f"Core ML takes images one by one, and device '{device.name}' asks for batches of {device.batch}; "
                f'take tensors (--input tensor, or input = "tensor" among its options), or a batch of 1.'
            )
        return options

    def layout(self, exported: ExportSpec) -> GraphVariant:
        """Return the form of one convolution per layer, as in the published export.

        A convolution also takes the place of each norm that remains after folding.
        """
        return GraphVariant(
            std=registry.preparation_of(exported).std if exported.options["input"] == "image" else None,
            doubling="grouped",
            attention="per-head" if exported.options["attention"] == "conv" else "batched",
            norms="depthwise",
        )

    def export(self, network: "nn.Module", asked: ExportJob, path: Path, metadata: dict[str, str]) -> None:
        """Write an ML Program package whose bytes depend only on the network, `asked` and `metadata`.

        In 8 bits `network` is a rounded one.

        Raises `UsageError` for an impossible precision or number of labels, `UnavailableError` where coremltools fails.
        """
        import copy

        if asked.precision not in self.precisions:
            raise UsageError(f"Core ML programs compute in {' or '.join(self.precisions)}, not in {asked.precision}.")
        if reason := _uncompressible_reason(asked.options["compress"]):
            raise UnavailableError(f"{reason[0].upper()}{reason[1:]}.")
        if asked.labels and asked.head != "classifier":
            raise UsageError("Class names belong to a classifier, and this network is dense; leave --classifier out.")
        if asked.labels and len(asked.labels) != asked.classes:
            raise UsageError(f"The network has {asked.classes} classes, and {len(asked.labels)} names were given.")
        network = copy.deepcopy(network).float().eval()
        shapes = asked.functions or (asked.shape,)
        needed = 4 * sum(parameter.numel() for parameter in network.parameters())
        with files.temporary_folder(path.parent) as work:
            with _translated(f"{asked.model} {asked.shape.size}", work, needed):
                models = [
                    _convert(network, asked, shape, work / f"{function_name(shape)}.mlpackage") for shape in shapes
                ]
                source = _merge(models, shapes, work) if asked.functions else models[0]
            _describe(source, asked, metadata)
            source.replace(path)

    def verification_sessions(self, path: Path, asked: ExportJob) -> Iterable[VerificationRun]:
        """Yield the stored program evaluated with PyTorch, and on a Mac also the package run by Core ML.

        With 8-bit activations a result that FP16 rounds may fall to another step, and change many behind it. So while
        the rounded network is at hand, the program is first evaluated in FP32, where it computes the same numbers.
        """
        from fastvit_bench.backends.coreml import device as devices
        from fastvit_bench.backends.coreml import session
        from fastvit_bench.backends.coreml.evaluate import ResultRounding

        for shape in asked.functions or (asked.shape,):
            function = function_name(shape) if asked.functions else ""
            name = function
            if asked.calibration is not None:
                exact = session.evaluated(path, None, _named(asked), ResultRounding.FLOAT32)
                how = "MIL program read back and evaluated with PyTorch in FP32"
                yield VerificationRun("own rounded network", how, shape, exact, precision="fp32")
            if asked.precision in quantise.PRECISIONS:
                name = "own rounded network, FP16"
            opened = session.evaluated(path, function or None, _named(asked))
            yield VerificationRun(name, "MIL program read back and evaluated with PyTorch", shape, opened)
        plain = not asked.functions and not _named(asked) and asked.device.options["location"] == "this-mac"
        if plain and devices.device_unavailable_reason(asked.device) is None:
            how = f"Core ML, compute units {asked.device.options['compute_units']}"
            yield VerificationRun("Core ML", how, asked.shape, self.open(path, asked.device), "hardware")

    def operations(self, path: Path) -> dict[str, int]:
        """Count the MIL operations of the default function by kind."""
        from fastvit_bench.backends.coreml import program

        package = program.read(path)
        return dict(program.histogram(package.functions[package.default]))

    def traffic(self, path: Path, shape: Shape) -> Traffic | None:
        """Return None: traffic is not counted for MIL programs, since what Core ML compiles them to is unknown."""
        return None

    def metadata(self, path: Path) -> dict[str, str]:
        """Return the package's user-defined metadata.

        Raises `ChecksumError` where the package's content is not what was exported.
        """
        from fastvit_bench.backends.coreml import program

        metadata = program.read(path).metadata
        recorded = metadata.get(_DIGEST)
        if recorded is not None and recorded != _digest(path):
            raise ChecksumError(
                f"{path} is damaged or was changed: its content is not what was exported; export it again."
            )
        return metadata

    def profile(self, path: Path, device: Device, images: "Batch", runs: int) -> tuple[LayerTime, ...]:
        """Raise `UsageError`, because Core ML does not report the times of layers."""
        raise UsageError(self.unprofiled(device))

    def unprofiled(self, device: Device) -> str:
        """Return why layers are not timed: Core ML plans costs per operation, and times are in Xcode's reports only."""
        return "Core ML does not report the times of layers; leave --profile out, and see the planned costs."

    def open(self, path: Path, device: Device) -> AbstractContextManager[Session]:
        """Load the package on this Mac or on a connected device."""
        from fastvit_bench.backends.coreml import device as devices

        return devices.open(path, device)


def _named(asked: ExportJob) -> tuple[str, ...]:
    """Return the class names that a package answers with.

    Core ML's classifier takes the scores of one image. A package for a batch has the scores of each image as its
    output, and the names in its metadata alone.
    """
    return asked.labels if asked.shape.batch == 1 else ()


def _uncompressible_reason(compress: str) -> str | None:
    """Return why weights cannot be compressed in that way, or None."""
    if compress.startswith("palette") and importlib.util.find_spec("sklearn") is None:
        return f"palettes of weights need scikit-learn; run: {install.extra('compress')}"
    return None


def function_name(shape: Shape) -> str:
    """Return the name of the function for a shape: ``r256``, ``r256x384`` (height x width)."""
    return f"r{shape.size}"


# --- conversion -------------------------------------------------------------------------------------------------------


def _convert(network: "nn.Module", asked: ExportJob, shape: Shape, path: Path) -> Path:
    """Convert for one input shape, compress if asked, and return the package that coremltools wrote."""
    import torch

    from fastvit_bench.backends.coreml import program
    from fastvit_bench.backends.coreml.session import LABEL

    ct = program.toolkit()
    half, rounded = asked.precision != "fp32", asked.precision in quantise.PRECISIONS
    example, named = torch.zeros(shape.nchw), _named(asked)
    with torch.no_grad():
        if named:
            network = torch.nn.Sequential(network, torch.nn.Softmax(-1))
        exported = torch.export.export(network, (example,)).run_decompositions({})
    if asked.options["input"] == "image":
        # the mean by bias is exact, because the zero padding of the first convolution comes after it; no operation is
        # written for a bias of zeros
        input_type = ct.ImageType(
            name=INPUT,
            shape=shape.nchw,
            scale=1 / 255,
            bias=[-mean for mean in registry.preparation_of(asked).mean],
            color_layout=ct.colorlayout.RGB,
        )
    else:
        import numpy as np

        input_type = ct.TensorType(name=INPUT, shape=shape.nchw, dtype=np.float16 if half else np.float32)
    names = output_names(len(exported.graph_signature.user_outputs), asked.head)
    outputs = None if named else [ct.TensorType(name=name) for name in names]  # a classifier's have fixed names
    classes = ct.ClassifierConfig(list(named), predicted_feature_name=LABEL) if named else None
    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes(quantise.UNWANTED_PASSES if rounded else set())
    model = ct.convert(
        exported,
        inputs=[input_type],
        outputs=outputs,
        classifier_config=classes,
        minimum_deployment_target=getattr(ct.target, "iOS18" if asked.functions else "iOS17" if rounded else "iOS16"),
        pass_pipeline=passes,
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        convert_to="mlprogram",
        skip_model_load=True,
        package_dir=str(path),
    )
    # in the other forms, and in timm's networks, the converter folds BatchNorms and scales into weights itself
    if rounded:
        _check_rounded(path, network)
    elif asked.fused is Fuse.FOLDED and not asked.variant.startswith(registry.TIMM):
        _check_weights(path, network, half=half)
    if asked.options["compress"] == "none":
        return path
    smaller = path.with_name(f"compressed-{path.name}")
    _compress(ct, model, asked.options["compress"]).save(str(smaller))
    return smaller


def _without_underflow(parameter: "nn.Parameter", rounded: "NDArray[np.floating]") -> "NDArray[np.floating]":
    """Return weights as coremltools rounds small arrays: what would become zero is 6e-8, with its sign.

    It does so in arrays of fewer than 400 values. The rule is meant for the epsilons of divisions, and applies to the
    biases of trained networks too (`FP16ComputePrecision._check_underflow_to_zero` of coremltools 9).
    """
    import numpy as np

    exact = parameter.detach().numpy()
    smallest = np.nextafter(np.zeros((), rounded.dtype), np.ones((), rounded.dtype))
    lost = (rounded == 0) & (exact != 0)
    return np.where(lost, np.copysign(smallest, exact).astype(rounded.dtype), rounded)


def _check_weights(path: Path, network: "nn.Module", *, half: bool) -> None:
    """Raise `ParityError` unless every weight is in the package bit for bit, rounded to FP16 once where it is FP16.

    The outputs of an FP16 package agree with the network's to 1e-2 only, which could hide a small wrong weight.
    The one difference allowed is that of `_without_underflow`, by 6e-8.
    """
    import numpy as np

    from fastvit_bench.backends.coreml import program

    package = program.read(path)
    stored = {
        (value.value.shape, value.value.tobytes())
        for operation in package.functions[package.default].operations
        if operation.kind == "const"
        for value in operation.attributes.values()
    }
    for name, parameter in network.named_parameters():
        with np.errstate(over="ignore"):  # reported below
            wanted = parameter.detach().numpy().astype(np.float16 if half else np.float32)
        if not np.isfinite(wanted).all():
            raise ParityError(
                f"The weights {name} do not fit into FP16, whose largest number is 65504; use --precision fp32."
            )
        accepted = (wanted, _without_underflow(parameter, wanted))
        if all((weights.shape, weights.tobytes()) not in stored for weights in accepted):
            raise _changed(name)


def _check_rounded(path: Path, network: "nn.Module") -> None:
    """Raise `ParityError` unless every number of a rounded network is in the package bit for bit.

    A weight is the product of its integer and its step, which FP32 holds exactly.
    """
    from fastvit_bench.backends.coreml import program
    from fastvit_bench.backends.coreml.evaluate import Evaluator, ResultRounding

    constants = Evaluator(program.read(path), arithmetic=ResultRounding.FLOAT32).constants()
    stored = {(value.shape, value.tobytes()) for value in constants}
    for name, parameter in network.named_parameters():
        if (parameter.shape, parameter.detach().numpy().tobytes()) not in stored:
            raise _changed(name)


def _changed(name: str) -> ParityError:
    return ParityError(f"coremltools changed the weights {name}; this version of it cannot be trusted with them.")


def _compress(ct: Any, model: Any, how: str) -> Any:
    """Compress weights to 8-bit integers with a scale per channel, or to indices into a table of 2^bits values.

    Each tensor has a table of its own. Tensors with fewer than 2048 numbers stay as they are (coremltools' default).
    They matter most for the accuracy of depthwise convolutions, and are next to nothing of the size.
    """
    optimize = ct.optimize.coreml
    if how == "int8":
        config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=config))
    config = optimize.OpPalettizerConfig(mode="kmeans", nbits=int(how.removeprefix("palette")))
    return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=config))


def _merge(models: list[Path], shapes: tuple[Shape, ...], work: Path) -> Path:
    """Write one package with a function per shape, in which equal weights are stored once."""
    from fastvit_bench.backends.coreml import program

    ct = program.toolkit()
    functions = ct.utils.MultiFunctionDescriptor()
    for model, shape in zip(models, shapes, strict=True):
        functions.add_function(str(model), src_function_name="main", target_function_name=function_name(shape))
    functions.default_function_name = function_name(shapes[0])
    merged = work / "functions.mlpackage"
    ct.utils.save_multifunction(functions, str(merged))
    return merged


@contextmanager
def _translated(what: str, folder: Path, needed: int) -> Generator[None]:
    """Silence the toolkits' output, and turn what they raise into one sentence.

    The native library reports a full disk in many ways. So an error is taken for a full disk where the disk of `folder`
    or of the temporary files has less space than the bytes `needed`.
    """
    import errno
    import shutil
    import tempfile

    try:
        with silenced():
            yield
    except (FastViTBenchError, MemoryError, OSError):
        raise
    except Exception as error:  # coremltools and its native library raise many kinds
        for place, name in ((folder, "there"), (Path(tempfile.gettempdir()), "for temporary files")):
            if shutil.disk_usage(place).free < needed:
                raise OSError(errno.ENOSPC, f"no space is left {name}") from error
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnavailableError(f"coremltools cannot convert {what}: {type(error).__name__}: {text[:300]}.") from error


# --- description of the package ---------------------------------------------------------------------------------------

_DIGEST = "fastvit_bench.content_sha256"  # of the weights and the program, so that a package can be checked anywhere
_ROOT, _WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"


def _describe(package: Path, asked: ExportJob, metadata: dict[str, str]) -> None:
    """Write the texts that Xcode shows and our metadata; drop what would make two equal exports differ."""
    from fastvit_bench.backends.coreml import program

    ct = program.toolkit()
    model = package / "Data" / _ROOT
    spec = ct.utils.load_spec(str(package))
    about, texts = spec.description, _texts(asked, asked.functions or (asked.shape,))
    about.metadata.shortDescription = texts["description"]
    about.metadata.author = texts["author"]
    about.metadata.license = texts["license"]
    about.metadata.versionString = metadata.get("fastvit_bench.version", "")
    named = {function_name(shape): shape for shape in asked.functions}
    for features in [about, *about.functions]:
        shapes = (named[features.name],) if features is not about else (asked.shape,)
        texts = _texts(asked, shapes)
        for feature in features.input:
            feature.shortDescription = texts["input"]
        for feature in features.output:
            feature.shortDescription = texts.get(feature.name, texts["output"])
    about.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    for key, value in metadata.items():
        about.metadata.userDefined[key] = value
    about.metadata.userDefined[_DIGEST] = _digest(package, spec)
    model.write_bytes(spec.SerializeToString(deterministic=True))
    model.chmod(0o644)  # coremltools leaves it readable by its owner alone
    _write_manifest(package)
    for extra in package.iterdir():  # notes that the converter writes for its own debugging
        if extra.name not in {"Manifest.json", "Data"}:
            files.remove(extra)


_MAPS = ("backbone with a feature map of each stage", "Feature map, channels first.")
_ENDS = {
    Head.CLASSIFIER: ("image classifier", "Scores of {} classes."),
    Head.DENSE: _MAPS,
    Head.STAGES: _MAPS,
    Head.FEATURES: _MAPS,
    Head.SEGMENTER: ("semantic segmentation by Semantic FPN", "Scores of ADE20K's 150 classes at every fourth pixel."),
    Head.DETECTOR: ("region proposals on a feature pyramid", "Of each anchor, channels first: a score, or its deltas."),
    Head.EMBEDDING: ("image encoder", "Embedding, which is not normalised."),
    Head.TOKENS: ("image encoder", "Features at each position, row by row."),
}


def _texts(asked: ExportJob, shapes: Sequence[Shape]) -> dict[str, str]:
    """Return the texts that Xcode shows of a package or function with these shapes, also of its outputs by name."""
    from fastvit_bench.backends.coreml.session import LABEL, PROBABILITIES

    size = ", ".join(f"{shape.height} x {shape.width}" for shape in shapes)
    what, output = _ENDS[asked.head]
    weights = (
        "random weights, for timing only" if asked.weights.origin == "random" else f"weights of {asked.weights.label}"
    )
    values = normalisation(registry.preparation_of(asked))
    pixels = f"RGB image, {size} pixels (height x width); the model normalises it ({values})."
    tensor = f"RGB, normalised ({values}), {asked.shape.batch} x 3 x {size}."
    return {
        "description": f"FastViT ({asked.variant}, arXiv 2303.14189), {what} at {size}, {asked.precision}; {weights}.",
        "author": "FastViT: Apple; exported by fastvit-bench",
        "license": "The license of the weights it was made from."
        if asked.weights.origin == "checkpoint"
        else "MIT (random weights)",
        "input": pixels if asked.options["input"] == "image" else tensor,
        "output": output.format(asked.classes) + (" Their names are in the metadata." if asked.labels else ""),
        LABEL: "Name of the most probable class.",
        PROBABILITIES: f"Probability of each of the {asked.classes} classes.",
    }


def _write_manifest(package: Path) -> None:
    """Write Manifest.json with identifiers that follow from the paths; coremltools draws random ones."""
    import json
    import uuid

    names = {_ROOT: ("model.mlmodel", "CoreML Model Specification"), _WEIGHTS: ("weights", "CoreML Model Weights")}
    entries = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, path)): {
            "author": "com.apple.CoreML",
            "description": description,
            "name": name,
            "path": path,
        }
        for path, (name, description) in names.items()
        if (package / "Data" / path).exists()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": str(uuid.uuid5(uuid.NAMESPACE_URL, _ROOT)),
    }
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def _digest(package: Path, spec: Any = None) -> str:
    """Return the SHA-256 of the weight file, the program, and the inputs and outputs without their texts."""
    import hashlib

    from fastvit_bench.backends.coreml import program

    spec = spec or program.specification(package)
    digest = hashlib.sha256(spec.mlProgram.SerializeToString(deterministic=True))
    for features in [spec.description, *spec.description.functions]:
        for feature in [*features.input, *features.output]:
            digest.update(feature.name.encode() + feature.type.SerializeToString(deterministic=True))
    weights = package / "Data" / _WEIGHTS
    try:
        digest.update(files.sha256(weights).encode() if weights.exists() else b"")
    except OSError as error:
        raise UnavailableError(f"The weights of {package.name} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


BACKEND = CoreML()
