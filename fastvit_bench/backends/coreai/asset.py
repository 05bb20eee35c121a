"""Reader of an asset's metadata, and the check that its program is the one that was exported. It loads no toolkit.

An asset is a folder: ``main.mlirb`` is the program with its weights, ``main.hash`` its SHA-256, and ``metadata.json``
has texts.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from fastvit_bench import files
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import ChecksumError, UnavailableError

PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"
DIGEST = "fastvit_bench.content_sha256"  # of the program, so that an asset can be checked anywhere
_CUSTOM = "creatorDefinedMetadata"  # Apple's key for entries of the file's maker
_LARGEST_METADATA = 1 << 20  # bytes


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata that `export` wrote into an asset.

    Raises `UnavailableError` for one that cannot be read, and `ChecksumError` where its program is not what was
    exported.
    """
    document = _document(path)
    entries = document.get(_CUSTOM, {})
    if not isinstance(entries, dict):
        raise UnavailableError(f"The Core AI reader cannot load {path.name}: its metadata are of another form.")
    own = {str(key): str(value) for key, value in entries.items()}
    recorded = own.get(DIGEST)
    if recorded is not None and not _is_intact(path, recorded):
        raise ChecksumError(f"{path} is damaged or was changed: its content is not what was exported; export it again.")
    return own


def _document(path: Path) -> dict[str, Any]:
    """Return the document in an asset's ``metadata.json``."""
    try:
        document = json.loads(files.read_text(path / METADATA, _LARGEST_METADATA))
    except OSError as error:
        raise UnavailableError(
            f"The Core AI reader cannot load {path.name}: {METADATA}: {error.strerror or first_line(error)}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UnavailableError(
            f"The Core AI reader cannot load {path.name}: {METADATA} is no JSON ({first_line(error)})."
        ) from error
    if not isinstance(document, dict):
        raise UnavailableError(f"The Core AI reader cannot load {path.name}: {METADATA} is no JSON object.")
    return document


def _is_intact(path: Path, recorded: str) -> bool:
    """Return whether the program of an asset has the recorded SHA-256, and Apple's own copy of it agrees."""
    try:
        digest, own = files.file_sha256(path / PROGRAM), files.read_bytes(path / HASH, 1024)
    except OSError as error:
        raise UnavailableError(
            f"The Core AI reader cannot load {path.name}: {error.strerror or first_line(error)}."
        ) from error
    return hmac.compare_digest(digest, recorded) and own == bytes.fromhex(digest)


def seal(path: Path, texts: dict[str, str], entries: dict[str, str]) -> None:
    """Write an asset's metadata so that its bytes depend on their content only.

    Apple's writer stamps the time and orders keys by chance. `texts` are Apple's fields: author, license, description.
    """
    document = _document(path)
    document.pop("creationDate", None)
    program = files.read_bytes(path / PROGRAM, files.PROGRAM)
    digest = hashlib.sha256(program)
    document |= {**texts, _CUSTOM: {**entries, DIGEST: digest.hexdigest()}}
    (path / METADATA).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (path / HASH).write_bytes(digest.digest())
