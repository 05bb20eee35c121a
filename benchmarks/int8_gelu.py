"""GELU between integers in ONNX Runtime: what each form costs beside one in float between two conversions.

Every form takes and returns 8-bit integers, as between the convolutions of an INT8 file, for the map of T8's first
stage at 256 pixels. Steps that differ from the form in float are counted over all 256 inputs.
"""

import math
import sys
import time
from typing import Any

import numpy as np
import onnxruntime
from _interleave import compare, interleave
from _report import finish, parser, report, say_ratio, ticker
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper, numpy_helper

from fastvit_bench.measuring.machine import Watch

SHAPE = (1, 144, 64, 64)
INPUT_STEP, INPUT_ZERO, OUTPUT_STEP, OUTPUT_ZERO = 0.05, 128, 0.025, 7  # inputs from -6.4 to 6.35
BASE = "in float"
Codes = NDArray[np.uint8]


def table() -> Codes:
    """GELU of every 8-bit input, rounded to the output's steps."""
    values = (np.arange(256) - INPUT_ZERO) * INPUT_STEP
    exact = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in values]
    return np.clip(np.rint(np.array(exact) / OUTPUT_STEP) + OUTPUT_ZERO, 0, 255).astype(np.uint8)


# form -> nodes: kind, domain, inputs, output, attributes
MICROSOFT = "com.microsoft"
OWN, OUT = ["x_step", "x_zero"], ["y_step", "y_zero"]
FORMS: dict[str, list[tuple[str, str, list[str], str, dict[str, Any]]]] = {
    BASE: [
        ("DequantizeLinear", "", ["x", *OWN], "a", {}),
        ("Gelu", "", ["a"], "b", {}),
        ("QuantizeLinear", "", ["b", *OUT], "y", {}),
    ],
    "table of 256 values": [
        ("Cast", "", ["x"], "a", {"to": TensorProto.INT32}),
        ("Gather", "", ["table", "a"], "y", {}),
    ],
    "x sigmoid(1.702 x) between integers": [
        ("QLinearSigmoid", MICROSOFT, ["x", "wide_step", "x_zero", "share_step", "share_zero"], "a", {}),
        ("QLinearMul", MICROSOFT, ["x", *OWN, "a", "share_step", "share_zero", *OUT], "y", {}),
    ],
    "x sigmoid(1.702 x) in float": [
        ("DequantizeLinear", "", ["x", *OWN], "a", {}),
        ("QuickGelu", MICROSOFT, ["a"], "b", {"alpha": 1.702}),
        ("QuantizeLinear", "", ["b", *OUT], "y", {}),
    ],
    "conversions around a Relu": [
        ("DequantizeLinear", "", ["x", *OWN], "a", {}),
        ("Relu", "", ["a"], "b", {}),
        ("QuantizeLinear", "", ["b", *OUT], "y", {}),
    ],
}


def graph(form: str, shape: tuple[int, ...]) -> GraphProto:
    """A form as a graph from ``x`` to ``y``."""
    constants = {
        "x_step": np.float32(INPUT_STEP),
        "x_zero": np.uint8(INPUT_ZERO),
        "y_step": np.float32(OUTPUT_STEP),
        "y_zero": np.uint8(OUTPUT_ZERO),
        "wide_step": np.float32(1.702 * INPUT_STEP),
        "share_step": np.float32(1 / 256),
        "share_zero": np.uint8(0),
        "table": table(),
    }
    nodes = [
        helper.make_node(kind, inputs, [output], domain=domain, **attributes)
        for kind, domain, inputs, output, attributes in FORMS[form]
    ]
    read = {name for node in nodes for name in node.input}
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items() if name in read]
    return helper.make_graph(nodes, "gelu", values[:1], values[1:], tensors)


def opened(form: str, shape: tuple[int, ...], threads: int) -> onnxruntime.InferenceSession:
    """A session of a form."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    model = helper.make_model(graph(form, shape), opset_imports=imports, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def steps_off(form: str) -> NDArray[np.int64]:
    """How many steps a form's output differs from the rounded GELU, for each of the 256 inputs."""
    (output,) = opened(form, (256,), 1).run(None, {"x": np.arange(256, dtype=np.uint8)})
    return np.abs(np.asarray(output).astype(np.int64) - table())


def main() -> int:
    """Compare and time every form; returns the exit code."""
    asked = parser(__doc__, blocks=21, runs=10).parse_args()
    codes = np.random.default_rng(asked.seed).integers(0, 256, SHAPE, np.uint8)
    watch = Watch()

    def side(form: str):
        session = opened(form, SHAPE, asked.threads)

        def timed() -> float:
            begun = time.perf_counter()
            for _ in range(asked.runs):
                session.run(None, {"x": codes})
            return 1e3 * (time.perf_counter() - begun) / asked.runs

        return timed

    blocks = interleave("GELU", {form: side(form) for form in FORMS}, asked.blocks, asked.seed, ticker("GELU"))
    ratios = [compare(blocks, form, BASE) for form in FORMS if form != BASE]
    for ratio in ratios:
        say_ratio(ratio)
    remarks = [
        f"{form}: at most {steps_off(form).max()} steps off, {steps_off(form).mean():.2f} on average." for form in FORMS
    ]
    settings = {"threads": asked.threads, "runs per block": asked.runs, "seed": asked.seed}
    return finish(report("int8_gelu", watch, settings, ratios, [blocks], (), remarks), asked)


if __name__ == "__main__":
    sys.exit(main())
