"""CPU quotas and throttling of Linux control groups, versions 1 and 2, as ``docker run --cpus`` sets them.

A process is bound by its own group and by every group above it that it can see: the tightest quota counts. Functions
take the root of the file system, so that tests can pass an artificial tree.
"""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path("/")


def quota(root: Path = ROOT) -> float | None:
    """Return the CPU quota in processors, such as 0.5; None where no group limits the process."""
    limits = [limit for group in groups(root) if (limit := _limit(group)) is not None]
    return min(limits, default=None)


def throttled(root: Path = ROOT) -> dict[str, int]:
    """Return the number of periods in which each limited group used up its quota so far, by the group's folder."""
    counts: dict[str, int] = {}
    for group in groups(root):
        if _limit(group) is not None:
            for line in _text(group / "cpu.stat").splitlines():
                name, _, value = line.partition(" ")
                if name == "nr_throttled" and value.strip().isdecimal():
                    counts[str(group)] = int(value)
    return counts


def periods_since(before: Mapping[str, int], after: Mapping[str, int]) -> int | None:
    """Return the throttled periods of the most throttled group between two readings of `throttled`.

    None where nothing is limited. A group that is missing from `before`, or began to count anew, counts from zero.
    """
    grown = [count - before.get(group, 0) if count >= before.get(group, 0) else count for group, count in after.items()]
    return max(grown, default=None)


def groups(root: Path = ROOT) -> list[Path]:
    """Return the folders of the process's CPU group and of those above it, as far as the process can see them."""
    mounts = [_mount(line) for line in _text(root / "proc/self/mountinfo").splitlines()]
    folders: list[Path] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        for mount in mounts:
            if mount is None:
                continue
            kind, options, top, point = mount
            first = kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options
            second = kind == "cgroup2" and number == "0" and not controllers
            if first or second:
                folders += _upwards(root, point, top, path)
    return list(dict.fromkeys(folders))


def _mount(line: str) -> tuple[str, list[str], str, str] | None:
    """Return type, super options, root and mount point from a line of mountinfo (proc(5)).

    None for a line that is no mount of control groups.
    """
    before, separator, after = line.partition(" - ")
    fields, kinds = before.split(" "), after.split(" ")
    if not separator or len(fields) < 5 or len(kinds) < 3 or kinds[0] not in ("cgroup", "cgroup2"):
        return None
    return kinds[0], kinds[2].split(","), _unescaped(fields[3]), _unescaped(fields[4])


def _unescaped(text: str) -> str:
    r"""Decode a path as mountinfo writes it, where a space is ``\040``."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda match: chr(int(match[1], 8)), text)


def _upwards(root: Path, point: str, top: str, path: str) -> list[Path]:
    """Return the folders from a group up to the mount, whose own root is the group `top`.

    A path that is not below `top` belongs to another namespace (cgroup_namespaces(7)): only the mount is known then.
    """
    mount = root / point.lstrip("/")
    steps = [step for step in path.split("/") if step]
    above = [step for step in top.split("/") if step]
    if ".." in steps or steps[: len(above)] != above:
        return [mount]
    below = steps[len(above) :]
    return [mount.joinpath(*below[:length]) for length in range(len(below), -1, -1)]


def _limit(group: Path) -> float | None:
    """Return the quota of one group in processors; None without a limit."""
    share, period = (*_text(group / "cpu.max").split(), "", "")[:2]  # version 2; "max" is no limit
    if not share:
        share, period = (_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))  # -1 is none
    if not (share.isdecimal() and period.isdecimal() and int(share) and int(period)):
        return None
    return int(share) / int(period)


def _text(path: Path) -> str:
    """Return the text of a system file; empty where it does not exist or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
