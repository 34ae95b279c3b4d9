"""What a machine or a container has, from the files of several kinds, and on this one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from muleteer.engine import detect

MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1000000 kB\nMemAvailable:    8000000 kB\nHugePages_Total: 0\n"
KB = 1024


def place(folder: Path, cgroup: str, **files: str) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup; `__` in a name stands for a slash, `_dot_` for a dot."""
    proc, cgroups = folder / "proc", folder / "cgroups"
    (proc / "self").mkdir(parents=True)
    cgroups.mkdir()
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "meminfo").write_text(MEMINFO)
    for name, text in files.items():
        file = cgroups / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return proc, cgroups


@pytest.mark.parametrize(
    ("cgroup", "files", "share"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu_dot_max": "150 1000\n"}, 0.15),
        ("0::/a/b", {"a__b__cpu_dot_max": "max 1000\n", "a__cpu_dot_max": "500 1000\n"}, 0.5),
        ("0::/a/b", {"a__b__cpu_dot_max": "200 1000\n", "cpu_dot_max": "500 1000\n"}, 0.2),
        ("0::/../../x", {"cpu_dot_max": "250 1000\n"}, 0.25),
        ("3:cpu,cpuacct:/a\n0::/", {"cpu,cpuacct__a__cpu.cfs_quota_us": "25\n", "cpu,cpuacct__a__cpu.cfs_period_us": "100\n"}, 0.25),
        ("3:cpu:/a", {"cpu__a__cpu.cfs_quota_us": "-1\n", "cpu__a__cpu.cfs_period_us": "100\n"}, None),
        ("3:cpu:/the/host/knows", {"cpu__cpu.cfs_quota_us": "50\n", "cpu__cpu.cfs_period_us": "100\n"}, 0.5),
    ],
)  # fmt: skip
def test_cores_by_quota(tmp_path, cgroup, files, share) -> None:
    found = detect.cpus(*place(tmp_path, cgroup, **files))
    assert found == (share if share is not None else len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("cgroup", "files", "total", "available"),
    [
        ("0::/", {}, 16_000_000 * KB, 8_000_000 * KB),
        ("0::/a", {"a__memory_dot_max": "max\n", "a__memory_dot_current": "5\n"}, 16_000_000 * KB, 8_000_000 * KB),
        ("0::/a", {"a__memory_dot_max": "1000\n", "a__memory_dot_current": "700\n", "a__memory_dot_stat": "anon 500\ninactive_file 200\n"}, 1000, 500),
        ("0::/a/b", {"a__b__memory_dot_max": "1000\n", "a__b__memory_dot_current": "1\n", "a__memory_dot_max": "900\n", "a__memory_dot_current": "800\n"}, 900, 100),
        ("0::/a", {"a__memory_dot_max": "1000\n", "a__memory_dot_high": "600\n", "a__memory_dot_current": "700\n"}, 600, 0),
        ("4:memory:/a", {"memory__a__memory.limit_in_bytes": "1000\n", "memory__a__memory.usage_in_bytes": "300\n", "memory__a__memory.stat": "total_inactive_file 100\nhierarchical_memory_limit 800\n"}, 800, 600),
        ("4:memory:/a", {"memory__a__memory.limit_in_bytes": f"{2**63 - 4096}\n", "memory__a__memory.usage_in_bytes": "300\n"}, 16_000_000 * KB, 8_000_000 * KB),
    ],
)  # fmt: skip
def test_memory_by_limit(tmp_path, cgroup, files, total, available) -> None:
    assert detect.memory(*place(tmp_path, cgroup, **files)) == (total, available)


def test_without_proc_nothing_is_claimed(tmp_path) -> None:
    assert detect.memory(tmp_path, tmp_path) is None
    assert detect.cpus(tmp_path, tmp_path) == len(os.sched_getaffinity(0))


def test_this_machine() -> None:
    assert 0 < detect.cpus() <= (os.cpu_count() or 1)
    found = detect.memory()
    assert found is not None
    assert 0 < found.available <= found.total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert detect.cpus() <= 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("declared", "visible", "found"),
    [
        ("0,1", None, ("0", "1")),
        ("0, 1,1", "7", ("0", "1")),
        (None, "2,GPU-8932", ("2", "GPU-8932")),
        (None, "", ()),
        (None, "0,-1,1", ("0",)),
    ],
)
def test_gpus_as_told(tmp_path, declared, visible, found) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert detect.gpus(declared, environ, tmp_path) == found


def test_gpus_of_the_driver(tmp_path, monkeypatch) -> None:
    for bus in ("0000:01:00.0", "0000:41:00.0"):
        (tmp_path / "driver" / "nvidia" / "gpus" / bus).mkdir(parents=True)
    assert detect.gpus(None, {}, tmp_path) == ("0", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect.gpus(None, {}, tmp_path / "without") == ()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho '  MIG 1g (UUID: x)'\necho 'GPU 1: H100'\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert detect.gpus(None, {}, tmp_path / "without") is None, "only the tool can tell"
    assert detect.ask_driver() == ("0", "1")
