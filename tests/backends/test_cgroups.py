"""Quotas and throttling are read from trees of control groups that are made up here, as Linux lays them out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import backends
from fastvit_bench.backends import _cgroups

V1_MOUNT = "32 31 0:29 {top} {point} rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2_MOUNT = "41 31 0:38 {top} {point} rw - cgroup2 cgroup2 rw"


def tree(root: Path, mounts: str, group: str, files: dict[str, str]) -> Path:
    """A file system with what a process sees of its groups, and the files of those."""
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": group, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def v1(folder: str, quota: int, throttled: int = 0, period: int = 100_000) -> dict[str, str]:
    stat = f"nr_periods 100\nnr_throttled {throttled}\nthrottled_time 123\n"
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
        f"{folder}/cpu.stat": stat,
    }


def v2(folder: str, limit: str, throttled: int = 0) -> dict[str, str]:
    stat = f"usage_usec 5\nnr_periods 100\nnr_throttled {throttled}\nthrottled_usec 123\n"
    return {f"{folder}/cpu.max": f"{limit}\n", f"{folder}/cpu.stat": stat}


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert _cgroups.quota(tmp_path) is None
    assert _cgroups.throttled(tmp_path) == {}
    assert _cgroups.periods_since({}, {}) is None


def test_the_tightest_quota_of_version_1_counts(tmp_path: Path) -> None:
    """The group itself allows more than the one above it."""
    base = "sys/fs/cgroup/cpu,cpuacct"
    files = v1(base, -1) | v1(f"{base}/pods", 150_000, throttled=3) | v1(f"{base}/pods/mine", 400_000, throttled=5)
    mounts = V1_MOUNT.format(top="/", point="/sys/fs/cgroup/cpu,cpuacct") + "\n25 1 8:1 / / rw - ext4 /dev/sda rw\n"
    root = tree(tmp_path, mounts, "5:memory:/other\n3:cpu,cpuacct:/pods/mine\n0::/\n", files)
    assert _cgroups.quota(root) == 1.5
    assert _cgroups.throttled(root) == {str(root / base / "pods"): 3, str(root / base / "pods/mine"): 5}


def test_the_tightest_quota_of_version_2_counts(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    files = (
        v2(f"{base}/a", "50000 100000", throttled=7) | v2(f"{base}/a/b", "max 100000") | v2(f"{base}/a/b/c", "200000")
    )
    root = tree(tmp_path, V2_MOUNT.format(top="/", point="/sys/fs/cgroup"), "0::/a/b/c\n", files)
    assert _cgroups.quota(root) == 0.5
    assert _cgroups.throttled(root) == {str(root / base / "a"): 7}


@pytest.mark.parametrize("path", ["/docker/4f", "/../../elsewhere", "/"])
def test_a_container_sees_its_own_group_alone(tmp_path: Path, path: str) -> None:
    """Its mount begins at its group; the path may be that of the host, or one outside of its namespace."""
    top = "/docker/4f" if path == "/docker/4f" else "/"
    for number, (mount, group, files) in enumerate(
        [
            (V1_MOUNT, f"2:cpuacct,cpu:{path}\n", v1("sys/fs/cgroup/cpu", 50_000)),
            (V2_MOUNT, f"0::{path}\n", v2("sys/fs/cgroup/cpu", "50000 100000")),
        ]
    ):
        root = tree(tmp_path / str(number), mount.format(top=top, point="/sys/fs/cgroup/cpu"), group, files)
        assert _cgroups.quota(root) == 0.5


def test_names_with_spaces_and_colons_are_read(tmp_path: Path) -> None:
    mounts = V2_MOUNT.format(top="/", point="/sys/fs/c\\040group")
    root = tree(tmp_path, mounts, "0::/my:unit x\n", v2("sys/fs/c group/my:unit x", "100000 100000"))
    assert _cgroups.quota(root) == 1.0


@given(mounts=st.text(), group=st.text(), limit=st.text(), stat=st.text())
def test_no_content_of_the_files_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, mounts: str, group: str, limit: str, stat: str
) -> None:
    root = tmp_path_factory.mktemp("cgroups")
    mount = V2_MOUNT.format(top="/", point="/g")
    files = {"g/cpu.max": limit, "g/cpu.stat": f"nr_throttled {stat}", "g/cpu.cfs_quota_us": limit}
    for told, where in ((f"{mounts}\n{mount}", f"{group}\n0::/\n"), (mounts, group)):
        files = {name: text.encode("utf-8", "replace").decode() for name, text in files.items()}
        tree(root, told.encode("utf-8", "replace").decode(), where.encode("utf-8", "replace").decode(), files)
        assert (_cgroups.quota(root) or 1) > 0
        assert all(count >= 0 for count in _cgroups.throttled(root).values())


@given(quota=st.integers(1, 10**7), period=st.integers(1_000, 10**6))
def test_a_quota_is_its_share_of_the_period(tmp_path_factory: pytest.TempPathFactory, quota: int, period: int) -> None:
    root = tmp_path_factory.mktemp("cgroups")
    tree(root, V1_MOUNT.format(top="/", point="/c"), "1:cpu:/\n", v1("c", quota, period=period))
    assert _cgroups.quota(root) == quota / period


@pytest.mark.parametrize(
    ("before", "after", "periods"),
    [
        ({"a": 3, "b": 10}, {"a": 5, "b": 10}, 2),
        ({"a": 3}, {"a": 3}, 0),
        ({}, {"a": 4}, 4),
        ({"a": 9}, {"a": 1}, 1),  # a group of that name was made anew
        ({"a": 9}, {}, None),
    ],
)
def test_periods_are_counted_between_two_readings(
    before: dict[str, int], after: dict[str, int], periods: int | None
) -> None:
    assert _cgroups.periods_since(before, after) == periods


@pytest.mark.parametrize(("quota", "threads"), [(None, 8), (0.5, 1), (1.0, 1), (1.5, 2), (7.01, 8), (64.0, 8)])
def test_threads_are_at_most_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(backends, "processors", lambda: 8)
    monkeypatch.setattr(_cgroups, "quota", lambda: quota)
    assert backends.available_cores() == threads
    device = backends.Device(name="cpu", backend="onnxruntime")
    assert backends.get("onnxruntime").options(device) == {"threads": threads}


def test_openmp_is_bounded_unless_a_person_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "processors", lambda: 8)
    monkeypatch.setattr(_cgroups, "quota", lambda: 1.5)
    environment: dict[str, str] = {}
    monkeypatch.setattr(backends.os, "environ", environment)
    backends.bound_openmp()
    assert environment == {"OMP_NUM_THREADS": "2"}
    environment["OMP_NUM_THREADS"] = "5"
    backends.bound_openmp()
    assert environment == {"OMP_NUM_THREADS": "5"}
    environment.clear()
    monkeypatch.setattr(_cgroups, "quota", lambda: None)
    backends.bound_openmp()
    assert environment == {}
