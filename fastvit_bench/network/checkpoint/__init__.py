"""Reading and writing of weight files: a network is found by the names and shapes of its entries, wherever it lies.

Two naming schemes are read, each in training form, fused, or with some blocks fused: the published one, for
classification or dense, and timm's (classification). One layout is written: the published fused one, with a note of
where the weights came from. A file's name never decides what network it holds, and nothing in a file is ever executed.
"""

from fastvit_bench.network.checkpoint.contents import resolve
from fastvit_bench.network.checkpoint.hashes import record_path, record_sha256, recorded_sha256, write_atomically
from fastvit_bench.network.checkpoint.loading import Checkpoint, Survey, identify, load, survey
from fastvit_bench.network.checkpoint.recognition import NamingScheme, check_variant, expected, summary
from fastvit_bench.network.checkpoint.saving import check_target, is_saved, save
from fastvit_bench.network.checkpoint.unstored import randomised

__all__ = [
    "Checkpoint",
    "NamingScheme",
    "Survey",
    "check_target",
    "check_variant",
    "expected",
    "identify",
    "is_saved",
    "load",
    "randomised",
    "record_path",
    "record_sha256",
    "recorded_sha256",
    "resolve",
    "save",
    "summary",
    "survey",
    "write_atomically",
]
