"""The processor's name as the system reports it: the text of x86 and Apple, numbers looked up of ARM processors.

An ARM core has two numbers, its designer and which of the designer's cores it is (Main ID Register, MIDR_EL1).
`lscpu` has a longer table of them, but a container may lack it or have another version. A name that depends on
installed packages would make two machines of one. py-cpuinfo has no such table, and archspec knows instruction sets
only.
"""

import platform
from pathlib import Path

ROOT = Path("/")

_ARM, _CAVIUM, _FUJITSU, _HISILICON, _NVIDIA, _QUALCOMM = 0x41, 0x43, 0x46, 0x48, 0x4E, 0x51
_SAMSUNG, _APPLE, _MICROSOFT, _PHYTIUM, _AMPERE = 0x53, 0x61, 0x6D, 0x70, 0xC0

DESIGNERS = {
    _ARM: "ARM",
    0x42: "Broadcom",
    _CAVIUM: "Cavium",
    _FUJITSU: "Fujitsu",
    _HISILICON: "HiSilicon",
    _NVIDIA: "NVIDIA",
    0x50: "AppliedMicro",
    _QUALCOMM: "Qualcomm",
    _SAMSUNG: "Samsung",
    0x56: "Marvell",
    _APPLE: "Apple",
    _MICROSOFT: "Microsoft",
    _PHYTIUM: "Phytium",
    _AMPERE: "Ampere",
}

# designer and part -> core; the numbers are in each core's technical reference manual and in the Linux kernel's
# arch/arm64/include/asm/cputype.h
CORES = {
    (_ARM, 0xB76): "ARM1176",
    (_ARM, 0xC07): "Cortex-A7",
    (_ARM, 0xC09): "Cortex-A9",
    (_ARM, 0xC0F): "Cortex-A15",
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD0E): "Cortex-A76AE",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4A): "Neoverse-E1",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_ARM, 0xD84): "Neoverse-V3",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_ARM, 0xD8E): "Neoverse-N3",
    (_CAVIUM, 0x0A1): "ThunderX",
    (_CAVIUM, 0x0AF): "ThunderX2",
    (_FUJITSU, 0x001): "A64FX",
    (_HISILICON, 0xD01): "TaiShan v110",
    (_HISILICON, 0xD02): "TaiShan v120",
    (_NVIDIA, 0x003): "Denver 2",
    (_NVIDIA, 0x004): "Carmel",
    (_NVIDIA, 0x010): "Olympus",
    (_QUALCOMM, 0x001): "Oryon",
    (_QUALCOMM, 0x201): "Kryo",
    (_QUALCOMM, 0x205): "Kryo",
    (_QUALCOMM, 0x211): "Kryo",
    (_QUALCOMM, 0x800): "Kryo 2xx Gold",
    (_QUALCOMM, 0x801): "Kryo 2xx Silver",
    (_QUALCOMM, 0x802): "Kryo 3xx Gold",
    (_QUALCOMM, 0x803): "Kryo 3xx Silver",
    (_QUALCOMM, 0x804): "Kryo 4xx Gold",
    (_QUALCOMM, 0x805): "Kryo 4xx Silver",
    (_QUALCOMM, 0xC00): "Falkor",
    (_APPLE, 0x022): "M1 Icestorm",
    (_APPLE, 0x023): "M1 Firestorm",
    (_APPLE, 0x024): "M1 Pro Icestorm",
    (_APPLE, 0x025): "M1 Pro Firestorm",
    (_APPLE, 0x028): "M1 Max Icestorm",
    (_APPLE, 0x029): "M1 Max Firestorm",
    (_APPLE, 0x032): "M2 Blizzard",
    (_APPLE, 0x033): "M2 Avalanche",
    (_MICROSOFT, 0xD49): "Azure Cobalt 100",
    (_AMPERE, 0xAC3): "AmpereOne",
    (_AMPERE, 0xAC4): "AmpereOne A",
}

# keys of /proc/cpuinfo that hold the names of processors without these numbers, the most precise first
_NAMES = ("model name", "cpu model", "uarch", "cpu")


def name(root: Path = ROOT) -> str:
    """Return the processor's name; `platform.processor` is empty or an architecture on most systems."""
    reported = _from_linux(root) or _from_macos()
    return reported or platform.processor() or platform.machine()


def _from_linux(root: Path) -> str:
    """Return the name from /proc/cpuinfo, or the board's name from the device tree where that file has none.

    Containers hide the device tree, so that it is the last choice.
    """
    lines = [_entry(line) for line in _text(root / "proc/cpuinfo").splitlines()]
    cores = _cores(lines)
    first = {key: value for key, value in reversed(lines) if value}
    board = first.get("model") or first.get("hardware") or ""
    if cores:
        return f"{cores} ({board})" if board else cores
    names = (first[key] for key in _NAMES if key in first)
    return next(names, "") or first.get("hardware", "") or _text(root / "proc/device-tree/model").strip("\0 \n")


def _entry(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip().lower(), value.strip()


def _cores(lines: list[tuple[str, str]]) -> str:
    """Return the kinds of ARM cores in the lines of /proc/cpuinfo, sorted by name; empty without any."""
    kinds: set[tuple[str, str]] = set()
    designer = ""
    for key, value in lines:
        if key == "cpu implementer":
            designer = value
        elif key == "cpu part" and designer:
            kinds.add((designer, value))
    known = sorted({_core(*kind) for kind in kinds})
    # a designer is named only with the first of his cores
    return " + ".join(
        core if at == 0 or known[at - 1][0] != maker else core.removeprefix(f"{maker} ")
        for at, (maker, core) in enumerate(known)
    )


def _core(designer: str, part: str) -> tuple[str, str]:
    """Return the designer and the name of a core; of one that is not known, its numbers."""
    try:
        numbers = int(designer, 16), int(part, 16)
    except ValueError:
        numbers = -1, -1
    maker = DESIGNERS.get(numbers[0], f"implementer {designer}")
    return maker, f"{maker} {CORES.get(numbers, f'part {part}')}"


def _from_macos() -> str:
    if platform.system() != "Darwin":
        return ""
    import subprocess

    process = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
    )
    return process.stdout.strip()


def _text(path: Path) -> str:
    """Return the content of a file of the system; empty where there is none or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
