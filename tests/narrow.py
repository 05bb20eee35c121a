"""Encoders of MobileCLIP and FastVLM with the published designs, but few and narrow blocks: an export takes seconds."""

import contextlib
import dataclasses
from collections.abc import Generator

import pytest

from fastvit_bench.exporting import pipeline
from fastvit_bench.network.checkpoint import recognition
from fastvit_bench.network.registry import ENCODERS, Downsampling, Mixer, Variant

EXCITED = Variant(  # as MCi0 to MCi2
    (1, 1, 1, 2), (32, 64, 128, 256), 3, Mixer.ATTENTION, 0.0, Downsampling(gelu=True, excited=(3, 4)), width=12
)
DEEP = Variant(  # as MCi3, MCi4 and FastViTHD
    (1, 1, 1, 1, 2), (32, 64, 128, 256, 512), 2, Mixer.ATTENTION, 0.0, Downsampling(gelu=True), "layernorm", False, 12
)

CACHES = (
    recognition.expected,
    recognition.words,
    recognition.roots,
    recognition._known_names,
    recognition._template,
    pipeline._reference,
)


@contextlib.contextmanager
def narrow_encoders() -> Generator[None]:
    """MobileCLIP's first and fourth encoder and FastVLM's are narrow in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, design in {
            "fastvit_mci0": dataclasses.replace(EXCITED, width=512),
            "fastvit_mci3": dataclasses.replace(DEEP, width=768),
            "fastvithd": dataclasses.replace(DEEP, width=0),
        }.items():
            patch.setitem(ENCODERS, name, design)
        for cached in CACHES:
            cached.cache_clear()
        yield
    for cached in CACHES:
        cached.cache_clear()
