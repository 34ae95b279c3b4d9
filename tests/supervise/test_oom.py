import pytest

from muleteer.supervise.oom import OomWitness, counter_files


def test_a_rise_counts_for_two_seconds(tmp_path):
    file = tmp_path / "memory.events"
    file.write_text("oom_kill 5\n")
    witness = OomWitness([file])
    assert not witness.saw_kill(0.0)
    file.write_text("oom_kill 6\n")
    assert witness.saw_kill(10.0)
    assert witness.saw_kill(11.9)  # another victim of the same shortage
    assert not witness.saw_kill(12.1)


def test_without_counters_nothing_is_blamed_on_memory(tmp_path):
    assert not OomWitness([]).saw_kill(0.0)
    assert not OomWitness([tmp_path / "gone"]).saw_kill(0.0)


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/a/b", "cgroups/a/b/memory.events"),
        ("0::/a/b", "cgroups/memory.events"),
        ("9:cpu:/x\n4:memory:/a/b\n0::/", "cgroups/memory/a/b/memory.oom_control"),
        ("4:memory:/not/visible", "cgroups/memory/memory.oom_control"),
        ("", "proc/vmstat"),
    ],
)
def test_the_most_specific_counter_is_found(tmp_path, cgroup, file):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    (tmp_path / "proc" / "vmstat").write_text("nr_free_pages 1\noom_kill 0\n")
    wanted = tmp_path / file
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    assert counter_files(tmp_path / "proc", tmp_path / "cgroups")[0] == wanted


def test_this_machine_has_a_counter():
    assert counter_files()
