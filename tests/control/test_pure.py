"""Routes, wear, files, reload notices and the words of status: pure parts, time as an argument."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from muleteer.control.backend import Backend, in_words, replica_number
from muleteer.control.files import FileWatch, shown, target_file
from muleteer.control.fleet import BackendStatistics, Fleet, ReplicaStatistics
from muleteer.control.proc import age_s, resident_bytes
from muleteer.control.routes import Routes
from muleteer.control.status import backend_reason, backend_state
from muleteer.control.wear import Measured, Wear
from muleteer.engine.port import ReplicaStatus
from muleteer.spec.fingerprint import fingerprint
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared, EndpointSpec, Replicas, Slo
from muleteer.spec.snapshot import Snapshot
from muleteer.spec.traffic import Affinity
from muleteer.supervise.process import LastExit

BAD_START = LastExit(reason="import_error", code=1, message="SyntaxError: m.py line 3\n  frames")
KILLED = LastExit(reason="killed", signal="SIGKILL", was_ready=True)


def replica(id: str, state: str = "ready", *, generation: int = 1, **more: object) -> ReplicaStatus:
    return ReplicaStatus(
        id=id, backend=id.rpartition("-")[0], generation=generation, address=f"unix:/{id}.sock", state=state, **more
    )


# routes

DECLARED = Declared(
    backends=(
        BackendSpec(name="a", target="a.py:A", base_dir="/", settings=BackendSettings(timeout=2, max_body=10)),
        BackendSpec(name="b", target="b.py:B", base_dir="/", settings=BackendSettings(timeout=5, max_body=20)),
    ),
    endpoints=(EndpointSpec(name="e", route="/e", traffic={"a": 1.0, "b": 2.0}),),
)


def snapshot(declared: Declared, replicas: list[ReplicaStatus]) -> Snapshot:
    routes = Routes("a2V5")
    routes.declare(declared)
    routes.observe(declared.backends[0], replicas)
    routes.observe(msgspec.structs.replace(declared.backends[0], name="undeclared"), [replica("undeclared-1")])
    return routes.snapshot()


def test_the_snapshot_routes_what_lives() -> None:
    states = ("starting", "ready", "backoff", "failed", "stopping")
    found = snapshot(DECLARED, [replica(f"a-{number}", state) for number, state in enumerate(states)])
    assert found.cookie_key == "a2V5"
    a, b = found.backends
    assert [address.id for address in a.replicas] == ["a-0", "a-1", "a-2"]
    assert a.replicas[0].address == "unix:/a-0.sock"
    assert (b.replicas, b.unavailable) == ((), "loading")
    (endpoint,) = found.endpoints
    assert (endpoint.timeout_s, endpoint.max_body, endpoint.traffic) == (5, 10, {"a": 1.0, "b": 2.0})


def test_an_endpoint_travels_as_declared() -> None:
    affinity = Affinity(source="header", name="x-session")
    endpoint = msgspec.structs.replace(DECLARED.endpoints[0], timeout=0.5, affinity=affinity)
    (found,) = snapshot(msgspec.structs.replace(DECLARED, endpoints=(endpoint,)), []).endpoints
    assert (found.timeout_s, found.affinity) == (0.5, affinity)


def test_the_snapshot_says_crash_loop_when_all_have_failed() -> None:
    assert snapshot(DECLARED, [replica("a-1", "failed")]).backends[0].unavailable == "crash_loop"
    both = [replica("a-1", "failed"), replica("a-2", "backoff")]
    assert snapshot(DECLARED, both).backends[0].unavailable == "loading"


# wear


def measured(id: str, rss: int | None, *, ready_s: float = 60.0, pid: int = 1) -> Measured:
    return Measured(replica(id, pid=pid), ready_s, rss)


def test_one_replica_at_a_time_is_worn() -> None:
    wear = Wear()
    assert wear.examine(100, [measured("a-1", 101), measured("a-2", 500)]).replica.id == "a-1"
    assert wear.examine(100, [measured("a-1", 101), measured("a-2", 500)]) is None
    assert (wear.worn("a-1"), wear.worn("a-2")) == (True, False)
    wear.forget("a-1")
    assert wear.examine(100, [measured("a-2", 500)]).replica.id == "a-2"


def test_a_replica_that_died_is_as_new() -> None:
    wear = Wear()
    wear.examine(100, [measured("a-1", 101, pid=1)])
    wear.examine(100, [measured("a-1", 50, pid=2)])
    assert not wear.worn("a-1")


@pytest.mark.parametrize(
    ("max_rss", "row"),
    [(None, measured("a-1", 10**12)), (100, measured("a-1", 100)), (100, measured("a-1", None))],
)
def test_not_worn(max_rss: int | None, row: Measured) -> None:
    assert Wear().examine(max_rss, [row]) is None


def test_a_bound_that_is_too_low_does_not_churn() -> None:
    assert Wear().examine(100, [measured("a-1", 500, ready_s=1.0)]) is None


# files


def test_a_change_counts_when_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("a = 1")
    watch = FileWatch()
    assert watch.look([str(path)]) == ()
    path.write_text("a = 1\nb = ")
    assert watch.look([str(path)]) == ()
    path.write_text("a = 1\nb = 2")
    assert watch.look([str(path)]) == ()
    assert watch.look([str(path)]) == (str(path),)
    assert watch.look([str(path)]) == ()


def test_a_file_written_aside_and_renamed_is_a_change_and_a_missing_one_is_none(tmp_path: Path) -> None:
    path, aside = tmp_path / "m.py", tmp_path / "m.py~"
    path.write_text("a = 1")
    watch = FileWatch()
    watch.look([str(path)])
    stat = path.stat()
    path.unlink()
    assert watch.look([str(path)]) == watch.look([str(path)]) == ()
    aside.write_text("a = 2")
    os.utime(aside, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    aside.rename(path)
    watch.look([str(path)])
    inode_differs = path.stat().st_ino != stat.st_ino
    assert watch.look([str(path)]) == ((str(path),) if inode_differs else ())


def test_the_file_of_a_target_is_found_without_an_import(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "module.py").write_text("raise RuntimeError")
    assert target_file("broken.py:M", str(tmp_path)) == str(tmp_path / "broken.py")
    assert target_file("/x/y.py:M", str(tmp_path)) == "/x/y.py"
    assert target_file("package.module:M", str(tmp_path)) == str(tmp_path / "package" / "module.py")
    assert target_file("package:M", str(tmp_path)) == str(tmp_path / "package" / "__init__.py")
    assert target_file("elsewhere:M", str(tmp_path)) is None


def test_many_files_are_shown_briefly() -> None:
    assert shown(["/m/a.py", "/m/b/c.py"], "/m") == "a.py, b/c.py"
    assert shown([f"/m/{name}.py" for name in "abcde"], "/m") == "a.py, b.py, c.py and 2 more"
    assert shown(["/other/a.py"], "/m") == "/other/a.py"


# reload notices


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def reloading(tmp_path: Path) -> tuple[Backend, Told]:
    source = tmp_path / "m.py"
    source.write_text("class M: ...")
    backend = Backend(BackendSpec(name="m", target="m.py:M", base_dir=str(tmp_path)))
    backend.observe(replica("m-1", files=(str(source),)))
    told = Told()
    backend.look_at_files(0.0, told)
    source.write_text("class M: pass  # changed")
    backend.look_at_files(1.0, told)
    backend.look_at_files(2.0, told)
    assert told.lines == ["reloading m: m.py changed"]
    assert backend.generation == 2
    return backend, told


def test_a_reload_is_done_when_nothing_older_is_left(reloading: tuple[Backend, Told]) -> None:
    backend, told = reloading
    old, new = replica("m-1"), replica("m-2", generation=2)
    backend.report_reload(2.1, [old], 1, told)
    backend.report_reload(2.2, [old, new], 1, told)
    backend.report_reload(2.3, [replica("m-1", "stopping"), new], 1, told)
    assert len(told.lines) == 1
    backend.report_reload(2.4, [new], 1, told)
    backend.report_reload(2.5, [new], 1, told)
    assert told.lines[1:] == ["reloaded m in 0.4 s"]


def test_a_reload_that_fails_says_so_once_and_may_be_mended(reloading: tuple[Backend, Told]) -> None:
    backend, told = reloading
    bad = replica("m-2", "backoff", generation=2, last_exit=BAD_START)
    backend.report_reload(2.1, [replica("m-1"), bad], 1, told)
    backend.report_reload(2.2, [replica("m-1"), msgspec.structs.replace(bad, state="failed")], 1, told)
    assert told.lines[1:] == ["m: new code does not start: SyntaxError: m.py line 3; the old one keeps serving"]
    Path(backend.spec.base_dir, "m.py").write_text("class M: pass  # mended now")
    backend.look_at_files(3.0, told)
    backend.look_at_files(3.25, told)
    assert backend.generation == 3
    backend.report_reload(4.0, [replica("m-3", generation=3)], 1, told)
    assert told.lines[2:] == ["reloading m: m.py changed", "reloaded m in 0.8 s"]


def test_a_successor_goes_on_with_generation_and_numbers() -> None:
    fleet = Fleet("m", {})
    fleet.declare(BackendSpec(name="m", target="m.py:M", base_dir="/"))
    fleet.observe(replica("m-9", generation=4), 0.0)
    assert (fleet.backend.generation, fleet.next_id(), fleet.next_id()) == (4, "m-10", "m-11")
    fleet.observe(replica("m-9", "gone", generation=4), 1.0)
    assert (fleet.replicas, fleet.next_id()) == ({}, "m-12")
    assert [replica_number(id) for id in ("m-7", "lr:v1-12", "m", "m-x")] == [7, 12, 0, 0]


def test_failed_starts_are_told_where_no_supervisor_tells_them() -> None:
    fleet = Fleet("m", {})
    fleet.declare(BackendSpec(name="m", target="m.py:M", base_dir="/", settings=BackendSettings(replicas=2)))
    fleet.observe(replica("m-1", "failed", last_exit=BAD_START), 0.0)
    assert fleet.hindrance(elsewhere=False) is None
    hindrance = fleet.hindrance(elsewhere=True)
    assert hindrance is not None
    assert (hindrance.reason, hindrance.crowded) == ("import_error", False)
    assert hindrance.text.startswith("SyntaxError: m.py line 3")
    fleet.observe(replica("m-2", "backoff", last_exit=BAD_START), 0.0)
    assert fleet.hindrance(elsewhere=True) is None, "it may start yet"


def test_status_has_the_memory_of_a_replica_as_soon_as_it_has_its_process() -> None:
    fleet = Fleet("m", {})
    fleet.observe(msgspec.structs.replace(replica("m-1"), pid=os.getpid()), 0.0)
    (told,) = fleet.statistics(0.0).replicas
    assert told.rss_bytes is not None
    assert told.rss_bytes > 2**20


M = BackendSpec(name="m", target="m.py:M", base_dir="/")


@pytest.mark.parametrize(
    ("change", "outdates"),
    [
        ({"target": "n.py:M"}, True),
        ({"base_dir": "/other"}, True),
        ({"settings": BackendSettings(concurrency=2)}, True),
        ({"settings": BackendSettings(batch="list")}, True),
        ({"settings": BackendSettings(gpus=1.0)}, True),
        ({"settings": BackendSettings(replicas=3, timeout=1, max_rss=1, expected=1, idempotent=False)}, False),
        (
            {"settings": BackendSettings(replicas=Replicas(1, 8), slo=Slo(0.1), batch_max=8, weight=2.0, idle=9.0)},
            False,
        ),
    ],
)
def test_a_fingerprint_tells_what_outdates_a_replica(change: dict[str, object], outdates: bool) -> None:
    backend = Backend(M)
    backend.declare(msgspec.structs.replace(M, **change))
    assert backend.generation == (2 if outdates else 1)


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([(3, M)], 3),
        ([(3, None)], 4),
        ([(2, None), (3, M)], 3),
        ([(2, M), (3, None)], 4),
        ([(1, None), (1, None)], 2),
    ],
)
def test_an_adopted_replica_of_another_declaration_is_outdated(
    replicas: list[tuple[int, BackendSpec | None]], expected: int
) -> None:
    """Whatever the order in which they are seen."""
    for order in (replicas, replicas[::-1]):
        backend = Backend(M)
        for generation, spec in order:
            backend.observe(replica("m-1", generation=generation, fingerprint=fingerprint(spec) if spec else "other"))
        assert backend.generation == expected


# the words of status


@pytest.mark.parametrize(
    ("expected", "wanted", "replicas"),
    [
        ("loading", 1, []),
        ("loading", 1, [replica("m-1", "starting", generation=2)]),
        ("loading", 1, [replica("m-1", "backoff", generation=2, last_exit=BAD_START)]),
        ("failed", 1, [replica("m-1", "failed", generation=2, last_exit=BAD_START)]),
        ("ready", 1, [replica("m-1", generation=2)]),
        ("degraded", 2, [replica("m-1", generation=2), replica("m-2", "starting", generation=2, last_exit=KILLED)]),
        ("reloading", 1, [replica("m-1"), replica("m-2", "starting", generation=2)]),
        ("ready", 1, [replica("m-1"), replica("m-2", "failed", generation=2, last_exit=BAD_START)]),
    ],
)
def test_backend_states(expected: str, wanted: int, replicas: list[ReplicaStatus]) -> None:
    rows = tuple(ReplicaStatistics(each, 1.0, None, leaving=False, worn=False) for each in replicas)
    backend = BackendStatistics(name="m", generation=2, wanted=wanted, replicas=rows)
    assert backend_state(backend) == expected
    reason = backend_reason(backend)
    assert reason == (BAD_START.message if any(r.last_exit is BAD_START for r in replicas) else None)


def test_an_exit_in_words() -> None:
    assert in_words(BAD_START) == BAD_START.message
    assert in_words(LastExit(reason="killed", signal="SIGKILL")) == "killed (SIGKILL)"
    assert in_words(LastExit(reason="exited", code=3)) == "exited (exit status 3)"


# /proc


def test_memory_and_age_of_a_process() -> None:
    assert 2**20 < resident_bytes(os.getpid()) < 2**33
    assert 0 < age_s(os.getpid()) < 24 * 3600
    assert resident_bytes(2**22 + 1) is None
    assert age_s(2**22 + 1) is None
