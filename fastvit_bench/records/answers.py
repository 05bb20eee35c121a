"""Right and wrong answers, one bit an image, as the text that a record holds.

Counts alone cannot say whether two networks are wrong about the same images; the answers can.
"""

from collections.abc import Sequence


def packed(right: Sequence[bool]) -> str:
    """Return answers as hexadecimal digits, four to a digit, the first in the highest bit; the last is filled up."""
    bits = "".join("01"[answer] for answer in right)
    return "".join(f"{int(bits[at : at + 4].ljust(4, '0'), 2):x}" for at in range(0, len(bits), 4))


def unpacked(text: str, count: int) -> tuple[bool, ...]:
    """Return so many answers. Raises `ValueError` for a text that `packed` does not make of so many."""
    if len(text) != -(-count // 4) or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:12]!r} holds no {count} answers")
    bits = "".join(f"{int(digit, 16):04b}" for digit in text)
    if "1" in bits[count:]:
        raise ValueError(f"more than {count} answers")
    return tuple(bit == "1" for bit in bits[:count])
