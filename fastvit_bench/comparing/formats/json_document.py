"""A comparison as JSON, and read back from it."""

from pathlib import Path

import msgspec

from fastvit_bench.comparing.phrases import sentence
from fastvit_bench.records.comparison import Comparison
from fastvit_bench.store import documents

# --- JSON of its own --------------------------------------------------------------------------------------------------


def json(comparison: Comparison) -> bytes:
    """Encode a comparison with every sample, its outcome, its exit code and its sentence as JSON.

    The last three are for programs that cannot derive them; `read` ignores them. The open end of an interval is null,
    because JSON has no infinity.
    """
    record: dict[str, object] = msgspec.to_builtins(comparison)
    derived = {
        "outcome": comparison.outcome.value,
        "exit_code": int(comparison.exit_code),
        "sentence": sentence(comparison),
    }
    return documents.encoded(record | derived)


def read(path: Path) -> Comparison:
    """Read a comparison that `json` wrote; raises `StoreError` for a file that is not one."""
    return documents.read(path, documents.COMPARISON)
