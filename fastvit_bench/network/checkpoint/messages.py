"""Sentences of refusals: the file, what is wrong with it, and what to do, with a stranger's text made printable."""

from pathlib import Path
from typing import NoReturn

from fastvit_bench.errors import CheckpointError

SHOWN = 100  # characters of a file's text in a message

KINDS = "a checkpoint of FastViT as published, of timm, or of this tool (.pth.tar, .pth, .bin, .safetensors)"


def refuse(path: Path, problem: str, remedy: str) -> NoReturn:
    """Raise `CheckpointError` with one sentence: the file, what is wrong with it, and what to do."""
    raise refusal(path, problem, remedy)


def refusal(path: Path, problem: str, remedy: str) -> CheckpointError:
    """Return the error with one sentence: the file, what is wrong with it, and what to do."""
    return CheckpointError(f"{path} {problem}; {remedy}.")


def reason(error: Exception) -> str:
    """Return the first line of an error's message without its full stop, or the error's class if it has none."""
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return printable((message.strip() or type(error).__name__).splitlines()[0].rstrip("."))


def printable(text: str) -> str:
    """Return a text of a file for a message: its printable characters, and no more than a line of them."""
    return "".join(letter for letter in text[:SHOWN] if letter.isprintable()) + ("…" if len(text) > SHOWN else "")


def quoted(name: str) -> str:
    """Return the name of an entry in quotes, for a message."""
    return repr(name) if len(name) <= SHOWN else f"{name[:SHOWN]!r}…"
