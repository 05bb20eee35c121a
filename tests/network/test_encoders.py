"""The designs of MobileCLIP's and FastVLM's image encoders, narrow, with timm's networks as a second opinion."""

import functools
from collections import Counter
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from narrow import DEEP, EXCITED

from fastvit_bench import backends, config
from fastvit_bench.backends import Images
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import checkpoints, pipeline, verification
from fastvit_bench.network import checkpoint, random_weights, reparam, timm_names
from fastvit_bench.network.fastvit import FastViT, Form
from fastvit_bench.network.registry import ENCODERS, Variant
from fastvit_bench.records import Device, Fuse, GraphVariant, Head, ModelSpec, Shape


def theirs(variant: Variant, outputs: int = 12) -> torch.nn.Module:
    """Return timm's network of a design, with weights on which every branch matters, in float64."""
    from functools import partial

    from timm.layers import LayerNorm2d
    from timm.models.fastvit import FastVit, RepConditionalPosEnc

    stages = range(1, len(variant.blocks) + 1)
    encoding = partial(RepConditionalPosEnc, spatial_shape=(7, 7))
    network = FastVit(
        layers=variant.blocks,
        embed_dims=variant.channels,
        mlp_ratios=(variant.ratio,) * len(variant.blocks),
        token_mixers=tuple("attention" if stage > 3 else "repmixer" for stage in stages),
        downsamples=(False, *(True for _ in variant.blocks[1:])),
        se_downsamples=tuple(stage in variant.downsampling.excited for stage in stages),
        pos_embs=tuple(encoding if stage > 3 else None for stage in stages),
        stem_use_scale_branch=variant.stem_scale,
        lkc_use_act=variant.downsampling.gelu,
        num_classes=outputs,
        **({"norm_layer": partial(LayerNorm2d, eps=1e-5)} if variant.norm == "layernorm" else {}),
    )
    draw = torch.Generator().manual_seed(7)
    for name, tensor in network.state_dict().items():
        leaf = name.rpartition(".")[2]
        if leaf == "gamma" or leaf == "running_var" or (leaf == "weight" and tensor.ndim == 1):
            tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
        elif tensor.is_floating_point():
            scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * scale)
    return network.double().eval()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("variant", [EXCITED, DEEP], ids=["excited", "deep"])
def test_every_form_computes_what_timm_does(variant: Variant, timm, difference):
    reference = theirs(variant)
    state = reference.state_dict()
    ours = FastViT(variant, head=Head.EMBEDDING, classes=12).double().eval()
    ours.load_state_dict(dict(zip(timm_names.published(state), state.values(), strict=True)), strict=True)
    image = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = reference(image)
    assert difference(ours(image), wanted) < 1e-11
    fused = reparam.fuse(ours)
    assert fused.form is Form.FUSED
    assert difference(fused(image), wanted) < 1e-11
    for layout in (GraphVariant(), GraphVariant(attention="per-head", doubling="split")):
        folded = reparam.fold(ours, layout)
        assert reparam.count_norms(folded) == 0
        assert difference(folded(image), wanted) < 1e-11


def test_stride_follows_from_the_stages():
    assert (EXCITED.stride, DEEP.stride) == (32, 64)


# of the network with a linear layer of so many outputs in place of its projection, as counted on the released code,
# whose first three projections have no bias: the outputs, the parameters in training and in fused form
PARAMETERS = {
    "fastvit_mci0": (512, 11_406_464 + 512, 11_356_992 + 512),
    "fastvit_mci1": (512, 21_541_120 + 512, 21_460_544 + 512),
    "fastvit_mci2": (512, 35_814_720 + 512, 35_702_480 + 512),
    "fastvit_mci3": (768, 125_235_648, 125_074_272),
    "fastvit_mci4": (768, 321_784_832, 321_569_664),
    "fastvithd": (768, 125_234_880 + 768, 125_073_504 + 768),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_parameters_are_as_many_as_published(name: str):
    outputs, *wanted = PARAMETERS[name]
    with torch.device("meta"):
        networks = [FastViT(ENCODERS[name], classes=outputs, form=form) for form in (Form.UNFUSED, Form.FUSED)]
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == wanted


@torch.no_grad()
@pytest.mark.parametrize("head", [Head.TOKENS, Head.EMBEDDING])
@pytest.mark.parametrize("variant", [EXCITED, DEEP], ids=["excited", "deep"])
def test_features_keep_their_order_when_they_are_folded(variant: Variant, head: Head, difference):
    network = FastViT(variant, head=head, classes=0).double().eval()
    random_weights.randomise(network, 3)
    image = torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    features = network(image)
    positions = (64 // variant.stride) * (128 // variant.stride)
    assert features.shape == ((2, positions, 2 * variant.channels[-1])[:: 1 if head is Head.TOKENS else 2])
    for layout in (GraphVariant(), GraphVariant(attention="per-head", doubling="split")):
        assert difference(reparam.fold(network, layout)(image), features) < 1e-11


@torch.no_grad()
def test_maps_of_five_stages():
    with torch.device("meta"):
        network = FastViT(DEEP, head=Head.STAGES)
        maps = network(torch.zeros(1, 3, 64, 128))
    assert network.taps == (0, 2, 4, 7, 10)
    assert [tuple(features.shape) for features in maps] == [
        (1, channels, 64 // stride, 128 // stride)
        for channels, stride in zip(DEEP.channels, (4, 8, 16, 32, 64), strict=True)
    ]


@pytest.mark.parametrize("head", [Head.DENSE, Head.SEGMENTER, Head.DETECTOR])
def test_a_head_of_four_stages_is_refused_for_five(head: Head):
    with pytest.raises(UsageError, match=f"five stages has no head '{head}'"):
        FastViT(DEEP, head=head)


# --- files ------------------------------------------------------------------------------------------------------------


def drawn(name: str, head: Head, outputs: int, form: Form = Form.UNFUSED) -> FastViT:
    """A network of `ENCODERS` with random weights, in float32."""
    network = FastViT(ENCODERS[name], head=head, classes=outputs).eval()
    random_weights.draw(network, 3)
    return (reparam.fuse(network) if form is Form.FUSED else network).float()


def apples(network: FastViT, prefix: str, kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A state dict as Apple stores it: below a prefix, the projection transposed and without a bias."""
    state = {
        name: value.to(kind) if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    state.pop("head.bias")
    state["head.proj"] = state.pop("head.weight").T.contiguous()
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("form", list(Form))
def test_apples_projection_is_transposed_and_has_no_bias(form: Form, tmp_path: Path, difference) -> None:
    network = drawn("fastvit_mci0", Head.EMBEDDING, 512, form)
    network.head.bias.zero_()
    path = tmp_path / "mobileclip_s0.pt"
    torch.save(apples(network, "image_encoder.model.") | {"text_encoder.projection_layer": torch.ones(4, 4)}, path)
    loaded = checkpoint.load(path)
    assert (loaded.variant, loaded.head, loaded.classes, loaded.form) == ("fastvit_mci0", Head.EMBEDDING, 512, form)
    image = torch.randn(1, 3, 64, 64)
    assert difference(loaded.network(image), network(image)) < 1e-6


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_fastvlms_encoder_gives_tokens_and_leaves_the_rest_aside(tmp_path: Path, difference) -> None:
    network = drawn("fastvit_mci3", Head.EMBEDDING, 768, Form.FUSED)
    path = tmp_path / "model.safetensors"
    beside = {"model.mm_projector.0.weight": torch.ones(8, 1024), "model.norm.weight": torch.ones(8)}
    tower = apples(network, "model.vision_tower.vision_tower.model.", torch.bfloat16)
    safetensors.torch.save_file(tower | beside, path)
    loaded = checkpoint.load(path)
    assert (loaded.variant, loaded.head, loaded.form) == ("fastvithd", Head.TOKENS, Form.FUSED)
    image = torch.randn(1, 3, 64, 128)
    tokens = loaded.network(image)
    assert tokens.shape == (1, 2, 1024)
    rounded = network.bfloat16().float()  # the values that the file holds
    features = rounded.conv_exp(functools.reduce(lambda x, part: part(x), rounded.network, rounded.patch_embed(image)))
    assert difference(tokens, features.flatten(2).transpose(1, 2)) < 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_the_same_shapes_are_the_network_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(drawn("fastvit_mci3", Head.EMBEDDING, 768).state_dict(), path)
    assert checkpoint.load(path).variant == "fastvit_mci3"
    assert checkpoint.load(path, variant="fastvithd").head is Head.TOKENS


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_without_a_projection_the_mean_of_the_features_is_left(tmp_path: Path) -> None:
    state = drawn("fastvit_mci0", Head.EMBEDDING, 512).state_dict()
    path = tmp_path / "features.pth"
    torch.save({name: value for name, value in state.items() if not name.startswith("head.")}, path)
    loaded = checkpoint.load(path)
    assert (loaded.variant, loaded.head, loaded.classes) == ("fastvit_mci0", Head.EMBEDDING, 0)
    assert loaded.network(torch.zeros(1, 3, 64, 64)).shape == (1, 2 * EXCITED.channels[-1])


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_a_classifier_of_other_classes_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "ten.pth"
    torch.save(drawn("fastvit_mci0", Head.CLASSIFIER, 10).state_dict(), path)
    loaded = checkpoint.load(path)
    assert (loaded.variant, loaded.head, loaded.classes) == ("fastvit_mci0", Head.CLASSIFIER, 10)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_timms_features_only_gives_the_maps_of_the_stages(tmp_path: Path, timm, difference) -> None:
    from timm.models import FeatureListNet

    backbone = FeatureListNet(theirs(EXCITED), out_indices=(0, 1, 2, 3), flatten_sequential=True).double().eval()
    path = tmp_path / "backbone.pth"
    torch.save({f"encoder.{name}": value.float() for name, value in backbone.state_dict().items()}, path)
    loaded = checkpoint.load(path)
    assert (loaded.variant, loaded.head) == ("fastvit_mci0", Head.FEATURES)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = backbone.float().double()(image)
    network = loaded.network.double()
    layouts = [GraphVariant(), GraphVariant(doubling="grouped", norms="depthwise")]
    for maps in (network(image), *(reparam.fold(network, layout)(image) for layout in layouts)):
        assert len(maps) == 4
        assert all(difference(actual, expected) < 1e-11 for actual, expected in zip(maps, wanted, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_a_backbone_without_norms_becomes_a_proved_file(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save(drawn("fastvit_mci3", Head.FEATURES, 0).state_dict(), path)
    spec = ModelSpec(name="backbone", variant="fastvit_mci3", checkpoint=str(path))
    shape, cpu = Shape(batch=1, height=64, width=128), Device(name="cpu", backend="onnxruntime")
    job = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, cpu, folder=tmp_path)
    artifact = pipeline.export(job)
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert "BatchNormalization" not in artifact.operations
    outputs = [
        [size.dim_value for size in value.type.tensor_type.shape.dim] for value in onnx.load(job.path).graph.output
    ]
    assert outputs == [[1, c, 64 // s, 128 // s] for c, s in zip(DEEP.channels, (4, 8, 16, 32, 64), strict=True)]


# network -> (prefix of the encoder's entries, whose names) of each layout in which it is published
LAYOUTS = {
    "fastvit_mci0": [
        ("image_encoder.model.", "apple"),
        ("module.visual.trunk.", "timm"),
        ("visual.trunk.", "timm"),
        ("", "timm"),
    ],
    "fastvit_mci3": [("module.visual.trunk.", "timm"), ("visual.trunk.", "timm"), ("", "timm")],
    "fastvithd": [
        ("model.vision_tower.vision_tower.model.", "apple"),
        ("model.vision_tower.timm_model.", "timm"),
        ("", "timm"),
    ],
}


def published(name: str, form: Form, prefix: str, names: str) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """The entries of a file as a network is published, and timm's network in training form and float64."""
    from timm.utils.model import reparameterize_model

    network = theirs(ENCODERS[name], ENCODERS[name].width or 768).float()
    random_weights.randomise(network, 3)  # in FP16, the weights of `theirs` would amplify rounding
    network.head.fc.bias.data.zero_()  # Apple's projection has none
    stored = (reparameterize_model(network) if form is Form.FUSED else network).state_dict()
    if name == "fastvithd":
        stored = {key: value for key, value in stored.items() if not key.startswith("head.")}
    if names == "apple":
        stored = dict(zip(timm_names.published(stored), stored.values(), strict=True))
        if "head.weight" in stored:
            stored["head.proj"] = stored.pop("head.weight").T
            del stored["head.bias"]
    return {prefix + key: value.contiguous() for key, value in stored.items()}, network.double()


@torch.no_grad()
def reference(name: str, network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The outputs of timm's network: an embedding, or FastVLM's tokens."""
    if name == "fastvithd":
        return network.forward_features(images).flatten(2).transpose(1, 2)
    return network(images)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("form", list(Form))
def test_every_layout_is_read_as_the_network_that_timm_computes(name: str, form: Form, tmp_path, timm, difference):
    image = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for prefix, names in LAYOUTS[name]:
        state, network = published(name, form, prefix, names)
        beside = {"logit_scale": torch.ones(()), "text.layer.weight": torch.ones(4, 4)}
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(state | beside, path)
        loaded = checkpoint.load(path, variant=name)
        assert (loaded.variant, loaded.form) == (name, form), prefix
        # the values of a fused file were rounded to float32 after they were multiplied
        most = 1e-11 if form is Form.UNFUSED else 1e-5
        assert difference(loaded.network.double()(image), reference(name, network, image)) < most, prefix


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("form", list(Form))
def test_an_fp16_package_of_a_published_file_computes_what_timm_does(name: str, form: Form, tmp_path: Path, timm):
    prefix, names = LAYOUTS[name][0]
    state, network = published(name, form, prefix, names)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    spec = ModelSpec(name=name, variant=name, checkpoint=str(path))
    device = Device(name="phone", backend="coreml", precision="fp16", options={"input": "tensor"})
    shape = Shape(batch=1, height=64, width=64)
    job = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=tmp_path)
    artifact = pipeline.export(job)
    (run,) = backends.get("coreml").verification_sessions(Path(job.path), job)
    images = verification.images(shape)
    values = [{artifact.head: reference(name, network, torch.from_numpy(batch).double()).numpy()} for batch in images]
    known = verification.ReferenceOutputs(Images.TENSOR, shape, artifact.head, "timm", tuple(values))
    with run.session as session:
        assert (proof := verification.prove(known, session, "fp16")).passed
        assert proof.relative_error < 3e-2


# --- exported files ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("name", "output", "dimensions"), [("fastvit_mci3", "embedding", [1, 768]), ("fastvithd", "tokens", [1, 1, 1024])]
)
def test_a_file_has_no_norm_but_one_operation_of_each_layernorm(
    name: str, output: str, dimensions: list[int], tmp_path: Path
) -> None:
    device = Device(name="cpu", backend="onnxruntime")
    spec = config.load(None, backends=backends.implemented()).select([name])[0]
    shape = Shape(batch=1, height=64, width=64)
    job = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=tmp_path)
    artifact = pipeline.export(job)
    assert artifact.parity is not None
    graph = onnx.load(job.path).graph
    (value,) = graph.output
    assert (value.name, [size.dim_value for size in value.type.tensor_type.shape.dim]) == (output, dimensions)
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["LayerNormalization"] == 3  # of a block of stage 4, and two of stage 5
    assert not kinds.keys() & {"BatchNormalization", "ReduceVariance", "Sqrt", "Div"}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("name", "subtracts"),
    [
        ("fastvit_mci0", 0),
        pytest.param("fastvit_mci3", 1, marks=pytest.mark.slow),
        pytest.param("fastvithd", 0, marks=pytest.mark.slow),
    ],
)
def test_a_core_ml_package_takes_pixels_as_the_encoder_was_trained(name: str, subtracts: int, tmp_path: Path) -> None:
    from fastvit_bench.backends.coreml import program

    (spec,) = config.load(None, backends=backends.implemented()).select([name])
    device = Device(name="phone", backend="coreml", precision="fp32")  # whose input is an image
    shape = Shape(batch=1, height=64, width=64)
    job = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=tmp_path)
    artifact = pipeline.export(job)
    assert artifact.parity is not None
    assert "8-bit RGB pixels" in artifact.parity.reference
    package = program.read(Path(job.path))
    first = [operation for operation in package.functions[package.default].operations if operation.kind != "const"]
    kinds = [operation.kind.rpartition(".")[2] for operation in first[: 2 + subtracts]]
    assert kinds == ["mul", *["add"] * subtracts, "conv"]
