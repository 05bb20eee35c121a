"""Processors are named from /proc/cpuinfo as different kinds of machines write it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.measuring import processor


def named(root: Path, cpuinfo: str, board: str | None = None) -> str:
    """The name that a machine with this /proc/cpuinfo, and this board in its device tree, gives its processor."""
    (root / "proc/device-tree").mkdir(parents=True, exist_ok=True)
    (root / "proc/cpuinfo").write_text(cpuinfo, encoding="utf-8")
    if board is not None:
        (root / "proc/device-tree/model").write_text(board, encoding="utf-8")
    return processor.name(root)


def arm(*kinds: tuple[str, str], more: str = "") -> str:
    """A block for each core, as arch/arm64 prints it, and what a board adds at the end."""
    blocks = [
        f"processor\t: {number}\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: {designer}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part}\nCPU revision\t: 1\n"
        for number, (designer, part) in enumerate(kinds)
    ]
    return "\n".join([*blocks, more])


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([("0x41", "0xd0c")] * 4, "ARM Neoverse-N1"),
        ([("0x41", "0xd49")], "ARM Neoverse-N2"),
        ([("0x41", "0xd4f")], "ARM Neoverse-V2"),
        ([("0x41", "0xd05")] * 4 + [("0x41", "0xd0b")] * 4, "ARM Cortex-A55 + Cortex-A76"),
        ([("0x41", "0xd46"), ("0x41", "0xd4d"), ("0x41", "0xd4e")], "ARM Cortex-A510 + Cortex-A715 + Cortex-X3"),
        ([("0x61", "0x023"), ("0x61", "0x022")], "Apple M1 Firestorm + M1 Icestorm"),
        ([("0x4e", "0x003"), ("0x41", "0xd07")], "ARM Cortex-A57 + NVIDIA Denver 2"),
        ([("0x4e", "0x004")], "NVIDIA Carmel"),
        ([("0x51", "0x001")], "Qualcomm Oryon"),
        ([("0xc0", "0xac3")], "Ampere AmpereOne"),
        ([("0x41", "0xfff")], "ARM part 0xfff"),
        ([("0x99", "0x123")], "implementer 0x99 part 0x123"),
    ],
)
def test_arm_cores_are_named_by_their_numbers(tmp_path: Path, kinds: list[tuple[str, str]], expected: str) -> None:
    assert named(tmp_path, arm(*kinds)) == expected
    assert named(tmp_path, arm(*reversed(kinds))) == expected  # whichever core comes first


def test_a_board_is_named_beside_its_cores(tmp_path: Path) -> None:
    pi = arm(("0x41", "0xd08"), more="Hardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n")
    assert named(tmp_path, pi) == "ARM Cortex-A72 (Raspberry Pi 4 Model B Rev 1.4)"
    assert named(tmp_path, arm(("0x41", "0xd03"), more="Hardware\t: Example SoC\n")) == "ARM Cortex-A53 (Example SoC)"


def test_a_container_that_hides_the_board_has_the_same_processor(tmp_path: Path) -> None:
    told = arm(("0x41", "0xd05"), ("0x41", "0xd0b"))
    assert named(tmp_path / "host", told, "Example Board\0") == named(tmp_path / "container", told)


def test_numbers_tell_more_than_the_model_name_of_a_32_bit_kernel(tmp_path: Path) -> None:
    assert named(tmp_path, "model name\t: ARMv7 Processor rev 4 (v7l)\n" + arm(("0x41", "0xd03"))) == "ARM Cortex-A53"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Example 9000 @ 2.50GHz\n", "Example 9000 @ 2.50GHz"),
        ("processor\t: 0\nhart\t: 0\nisa\t: rv64gc\nuarch\t: sifive,u74-mc\n", "sifive,u74-mc"),
        ("processor\t: 0\ncpu\t\t: POWER9, altivec supported\nmodel\t: IBM\n", "POWER9, altivec supported"),
        ("system type\t: Example\ncpu model\t: Example-3A V0.9\n", "Example-3A V0.9"),
    ],
)
def test_other_processors_say_their_name(tmp_path: Path, cpuinfo: str, expected: str) -> None:
    assert named(tmp_path, cpuinfo) == expected


def test_the_device_tree_names_what_nothing_else_does(tmp_path: Path) -> None:
    assert named(tmp_path, "processor\t: 0\n", "Example Board Rev 2\0") == "Example Board Rev 2"


@given(st.text())
def test_no_cpuinfo_is_an_error(tmp_path_factory: pytest.TempPathFactory, cpuinfo: str) -> None:
    text = cpuinfo.encode("utf-8", "replace").decode()
    assert named(tmp_path_factory.mktemp("cpu"), f"CPU implementer: {text}\nCPU part: {text}\n{text}")
