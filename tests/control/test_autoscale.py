"""From what gateways and replicas tell to a number of replicas: measuring, deciding, start-up times. Time is given."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
import pytest

from muleteer.control.autoscale import Autoscaler, Present
from muleteer.control.measure import SERVICES_KEPT, Cpu, Load, Measure
from muleteer.control.reasons import explained
from muleteer.control.startup import StartUps
from muleteer.engine.port import ReplicaState, ReplicaStatus
from muleteer.spec.settings import BackendSettings, BackendSpec, Replicas, Slo

SERVICE_S = 0.02


def spec(name: str = "m", **settings: Any) -> BackendSpec:
    return BackendSpec(name=name, target="m.py:M", base_dir="/", settings=BackendSettings(**settings))


class World:
    """One gateway that counts, and replicas that are there when they are wanted."""

    def __init__(self, *specs: BackendSpec) -> None:
        self.scaler = Autoscaler()
        self.now = 0.0
        self.loads = {each.name: Load() for each in specs}
        self.ready: dict[str, int] = {}
        self.declare(*specs)

    def declare(self, *specs: BackendSpec) -> None:
        self.specs = {each.name: each for each in specs}
        self.scaler.declare(specs, (), lambda name: self.ready.get(name, 0), self.now)

    def tick(self, epoch: str = "e", /, **calls: int) -> list[str]:
        """So many calls come to each backend, and are served in SERVICE_S."""
        self.now += 0.5
        told = {}
        for name, count in calls.items():
            before = self.loads[name]
            self.loads[name] = msgspec.structs.replace(
                before,
                arrivals=before.arrivals + count,
                served=before.served + count,
                answered=before.answered + count,
                services=((SERVICE_S, min(1000, before.served + count)),),
                slots=1,
            )
            told[name] = self.loads[name]
        answer = {"epoch": epoch, "backends": msgspec.to_builtins(told)}
        self.scaler.take("gateway-0", answer, self.now)
        changed = self.scaler.tick(self.now, lambda name: Present(self.ready.get(name, 0)), lambda _: 0)
        self.ready = {name: self.wanted(name) for name in self.specs}
        return changed

    def ticks(self, count: int, **calls: int) -> None:
        for _ in range(count):
            self.tick(**calls)

    def wanted(self, name: str = "m") -> int:
        return self.scaler.wanted(self.specs[name])


def test_a_load_with_an_slo_gets_replicas_and_loses_them_later() -> None:
    world = World(spec(slo=Slo(0.1)))
    assert world.wanted() == 1
    world.ticks(20, m=60)
    high = world.wanted()
    assert 3 <= high <= 6, "120 calls/s of 20 ms keep 2.4 busy"
    world.ticks(6, m=5)
    assert world.wanted() == high, "down slowly"
    world.ticks(60, m=5)
    assert world.wanted() == 1


def test_bounds_alone_aim_at_what_the_measured_service_allows() -> None:
    world = World(spec(replicas=Replicas(1, 8)))
    world.ticks(20, m=60)
    sized = world.scaler.sized("m")
    assert sized is not None and sized.target_s == pytest.approx(SERVICE_S + 0.05)
    assert 3 <= world.wanted() <= 6
    view = explained(world.specs["m"], sized, world.scaler.measure("m"), 1.0)
    assert view.target_reason == "no slo is declared: aims at p99 70ms, a call alone takes up to 20ms (p99)"


def test_a_fixed_number_is_only_advised() -> None:
    world = World(spec(replicas=2, slo=Slo(0.1)))
    world.ticks(20, m=100)
    assert world.wanted() == 2
    sized = world.scaler.sized("m")
    view = explained(world.specs["m"], sized, world.scaler.measure("m"), None)
    assert (view.replicas, view.limited_by, view.elastic) == (2, "fixed", False)
    assert view.reason == "2: the declared number"
    assert view.advice.startswith("2: the declared maximum; wanted ")


def test_a_target_that_cannot_be_kept_is_said_after_a_while() -> None:
    world = World(spec(slo=Slo(0.015)))
    world.ticks(5, m=20)
    assert world.scaler.unkept == {}, "it may be a moment"
    world.ticks(12, m=20)
    assert world.scaler.unkept == {"m": "p99 15ms is out of reach with any number of replicas"}
    world.declare(spec(slo=Slo(0.1)))
    world.ticks(30, m=20)
    assert world.scaler.unkept == {}
    few = World(spec(slo=Slo(0.1), replicas=1))
    few.ticks(20, m=40)
    assert few.scaler.unkept == {"m": "p99 100ms needs more replicas than were declared"}


def test_a_warm_up_is_no_reason_to_call_a_target_out_of_reach() -> None:
    world = World(spec(slo=Slo(0.1)))
    world.loads["m"] = Load(warm_up_s=0.4)
    world.ticks(20, m=1)
    assert world.scaler.unkept == {}, "the first call is often the slowest of all"
    world = World(spec(slo=Slo(0.1), expected=0.4))
    world.ticks(20, m=1)
    assert world.scaler.unkept == {"m": "p99 100ms is out of reach with any number of replicas"}, "that was declared"


def test_neither_slo_nor_bounds_no_sizing() -> None:
    world = World(spec(replicas=3))
    world.ticks(3, m=50)
    assert (world.wanted(), world.scaler.sized("m")) == (3, None)
    view = explained(world.specs["m"], None, world.scaler.measure("m"), None)
    assert (view.limited_by, view.replicas) == ("fixed", 3)
    assert "may wait" in view.queue_reason


def test_a_bound_that_rests_on_a_guess_is_not_explained_by_what_was_measured_of_a_few_calls() -> None:
    world = World(spec(replicas=3))
    world.loads["m"] = Load(arrivals=7, served=7, slots=1, bound=50, mean_s=0.0125, p99_s=0.03)
    world.tick(m=0)
    view = explained(world.specs["m"], None, world.scaler.measure("m"), None)
    assert view.queue_reason == "50 may wait until 50 calls were measured"
    world.declare(spec(replicas=3, expected=0.02))
    view = explained(world.specs["m"], None, world.scaler.measure("m"), None)
    assert view.queue_reason == "50 may wait within the deadline of 30s"


def test_before_anything_is_measured_what_was_declared_counts() -> None:
    world = World(spec(slo=Slo(0.1), expected=SERVICE_S))
    world.loads["m"] = Load(arrivals=200, queued=190, open_calls=200, slots=1)
    world.tick(m=0)
    assert world.wanted() > 1


def test_it_sleeps_after_its_idle_time_and_a_demand_wakes_it() -> None:
    world = World(spec(replicas=Replicas(0, 4), idle=3.0))
    assert world.wanted() == 0, "nothing runs before the first call"
    assert world.scaler.demand(["m", "unknown"], world.now) == ["m"]
    assert world.wanted() == 1
    assert world.scaler.demand(["m"], world.now) == [], "repeated"
    world.ticks(4, m=1)
    assert world.wanted() == 1
    world.ticks(5)
    assert world.wanted() == 1, "2.5 s"
    world.ticks(2)
    assert world.wanted() == 0
    sized = world.scaler.sized("m")
    assert sized is not None and sized.sizing is not None
    assert sized.sizing.reason.startswith("0: no call for 3")


def test_one_that_rested_and_is_woken_sleeps_again_though_no_call_was_ever_counted() -> None:
    """The caller went away, or the gateway that told of it was killed."""
    world = World(spec(replicas=Replicas(0, 4), idle=1.0))
    world.ticks(3)
    world.scaler.demand(["m"], world.now)
    world.ready = {"m": 1}
    world.tick()
    assert world.wanted() == 1
    world.ticks(3)
    assert world.wanted() == 0


def test_a_start_that_was_measured_counts_before_any_call_was() -> None:
    world = World(spec(replicas=Replicas(0, 1)))
    world.scaler.startups.recall("m", 5.0)
    world.scaler.demand(["m"], world.now)
    world.tick(m=1)
    world.ticks(200)
    assert world.wanted() == 1, "kept for 61 starts of 5 s, and not for 61 s"
    sized = world.scaler.sized("m")
    assert sized is not None and sized.workload is None
    world.ticks(420)
    assert world.wanted() == 0


def test_one_that_was_given_up_sleeps_until_somebody_calls() -> None:
    world = World(spec("m", replicas=Replicas(0, 4), idle=3600.0), spec("n", replicas=Replicas(1, 4)))
    world.scaler.demand(["m"], world.now)
    world.ticks(10, m=1)
    world.scaler.given_up("m", world.now)
    world.scaler.given_up("n", world.now)
    assert (world.wanted("m"), world.wanted("n")) == (0, 1), "room that comes back is not for calls of the past"
    world.ready = {"m": 0, "n": 1}
    world.ticks(4)
    assert world.wanted("m") == 0
    world.scaler.demand(["m"], world.now)
    world.scaler.given_up("m", world.now)
    assert world.wanted("m") == 1, "somebody waits"


def test_its_idle_time_begins_when_it_is_ready() -> None:
    world = World(spec(replicas=Replicas(0, 1), idle=1.0))
    world.scaler.demand(["m"], world.now)
    for _ in range(8):
        world.now += 0.5
        world.scaler.tick(world.now, lambda _: Present(0, (world.now,)), lambda _: 0)
        assert world.wanted() == 1
    world.ready = {"m": 1}
    world.tick()
    assert world.wanted() == 1
    world.ticks(3)
    assert world.wanted() == 0


def test_a_call_that_runs_for_long_is_no_idleness() -> None:
    world = World(spec(replicas=Replicas(0, 1), idle=1.0))
    world.scaler.demand(["m"], world.now)
    world.loads["m"] = Load(arrivals=1, open_calls=1, slots=1)
    for _ in range(8):
        world.tick(m=0)
        assert world.wanted() == 1
    world.loads["m"] = msgspec.structs.replace(world.loads["m"], open_calls=0)
    world.ticks(4)
    assert world.wanted() == 0


def test_one_that_a_rollout_moves_traffic_to_may_not_sleep() -> None:
    world = World(spec(replicas=Replicas(0, 4), idle=1.0))
    assert world.scaler.keep_awake({"m"}) == ["m"]
    world.ticks(20)
    assert world.wanted() == 1
    world.scaler.keep_awake(set())
    world.ticks(3)
    assert world.wanted() == 0


def test_what_runs_is_kept_when_the_controller_or_the_declaration_is_new() -> None:
    world = World(spec(replicas=Replicas(1, 8)))
    world.scaler.keep("m", 5, world.now)
    world.tick(m=1)
    assert world.wanted() == 5, "adopted, not reset"
    fixed = World(spec(replicas=3))
    fixed.ready = {"m": 3}
    fixed.declare(spec(replicas=Replicas(1, 8)))
    assert fixed.wanted() == 3
    fixed.declare(spec(replicas=Replicas(1, 2)))
    assert fixed.wanted() == 2
    fixed.declare(spec(replicas=Replicas(4, 8)))
    assert fixed.wanted() == 4


def test_a_gateway_that_begins_anew_counts_from_nothing() -> None:
    world = World(spec(slo=Slo(0.1)))
    world.ticks(10, m=20)
    sized = world.scaler.sized("m")
    assert sized is not None
    before = sized.sizer.rate()
    world.loads["m"] = Load()
    world.tick("another", m=20)
    assert sized.sizer.rate() == pytest.approx(before, rel=0.2)


def test_calls_wait_until_they_do_not() -> None:
    world = World(spec(replicas=Replicas(0, 1)))
    world.scaler.demand(["m"], 10.0)
    world.scaler.demand(["m"], 11.0)
    assert world.scaler.waited_s("m", 11.0) == 1.0
    assert world.scaler.waited_s("m", 14.0) == 0.0, "nobody repeated it"
    world.scaler.demand(["m"], 15.0)
    assert world.scaler.waited_s("m", 15.5) == 0.5


def test_a_thousand_backends_without_calls_cost_nothing_and_words_only_who_reads_them() -> None:
    """Measured 12 ms for a tick in which 64 are decided about; the limits leave room for a busy machine."""
    world = World(*(spec(f"b{number}", replicas=Replicas(0, 4)) for number in range(1000)))
    world.tick()
    began = time.process_time()
    for _ in range(20):
        world.tick()
    assert (time.process_time() - began) / 20 < 0.02
    calls = {f"b{number}": 5 for number in range(1000)}
    for _ in range(32):
        world.tick(**calls)
    assert all(world.wanted(name) for name in calls), "each comes round"


# measuring


def test_services_fade_into_one_another() -> None:
    measure = Measure()
    measure.take("g", "e", Load(served=1000, services=((0.01, 1000),)), 0.5, 0.0)
    assert _workload(measure).service.mean_s == pytest.approx(0.01)
    measure.take("g", "e", Load(served=1100, services=((0.01, 900), (0.1, 100))), 0.5, 0.5)
    share = _workload(measure).service.points[-1][1]
    assert 0 < share < 0.1, "100 new calls among many"
    for turn in range(1, 20):
        served = 1100 + turn * SERVICES_KEPT
        measure.take("g", "e", Load(served=served, services=((0.2, 1000),)), 5.0, turn)
    assert _workload(measure).service.mean_s == pytest.approx(0.2, rel=0.05), "in the end only what is now"


def test_cpu_of_a_call_and_what_it_waited_for_a_core() -> None:
    measure = Measure()
    load = Load(served=100, answered=100, services=((0.05, 100),))
    measure.take("g", "e", load, 0.5, 0.0)
    measure.take_cpu({"m-1 7": Cpu(10.0, 1.0)})
    measure.take("g", "e", msgspec.structs.replace(load, answered=105, served=105), 0.5, 1.0)
    measure.take_cpu({"m-1 7": Cpu(11.0, 1.0)})
    assert measure.cpu_s == 0.0, "five calls tell nothing"
    measure.take("g", "e", msgspec.structs.replace(load, answered=200, served=200), 0.5, 2.0)
    measure.take_cpu({"m-1 7": Cpu(12.0, 2.0), "m-2 8": Cpu(50.0, 50.0)})
    assert [measure.cpu_s, measure.cpu_wait_s] == pytest.approx([0.02, 0.01])
    workload = _workload(measure)
    assert (workload.cpu_s, workload.cpu_wait_s) == (measure.cpu_s, measure.cpu_wait_s)


def test_cpu_is_steady_however_the_looks_at_replicas_fall() -> None:
    """Two replicas, 100 calls/s of 10 ms of CPU, looked at ten times a second and read once a second, not at once."""
    measure = Measure()
    read: dict[str, Cpu] = {}
    seen = []
    for tick in range(1, 101):
        answered = 10 * tick
        load = Load(served=answered, answered=answered, model_mean_s=0.02, services=((0.02, min(answered, 1000)),))
        measure.take("g", "e", load, 0.1, tick / 10)
        for replica, phase in (("m-1 7", 0), ("m-2 8", 4)):
            if tick % 10 == phase:
                read[replica] = Cpu(tick / 10 * 0.5, tick / 10 * 0.4)
        measure.take_cpu(read)
        if tick > 40:
            seen.append((measure.cpu_s, _workload(measure).cores_busy()))
    assert all(0.008 < cpu_s < 0.012 for cpu_s, _ in seen), seen
    assert all(0.65 < cores < 1.1 for _, cores in seen), seen  # 10 ms on a core, 8 of 20 ms waiting for one


def test_services_that_were_slow_for_want_of_a_core_do_not_hide_what_a_replica_uses_now() -> None:
    """After a time of contention the mean of the services is old; CPU and wait are new."""
    measure = Measure()
    answered, cpu = 0, Cpu(0.0, 0.0)
    for second in range(40):
        mean_s, wait_s = (0.06, 0.05) if second < 20 else (0.01, 0.0)
        answered += 100
        measure.take(
            "g",
            "e",
            Load(served=answered, answered=answered, model_mean_s=mean_s, services=((mean_s, 100),)),
            1.0,
            second,
        )
        cpu = Cpu(cpu.used_s + 100 * 0.01, cpu.wait_s + 100 * wait_s)
        measure.take_cpu({"m-1 7": cpu})
    assert _workload(measure).service.mean_s > 0.02
    assert 0.8 < _workload(measure).cores_busy() < 1.2


@pytest.mark.parametrize(("cores", "expected"), [(0.9, 1.0), (1.9, 1.9)])
def test_waits_between_calls_do_not_make_a_replica_larger_than_it_was_seen(cores: float, expected: float) -> None:
    """10 ms on a core of 15 ms held; the process waited for a core for 14 ms a call, most of it outside the call."""
    measure = Measure()
    for second in range(5):
        count = 100 * second
        measure.take(
            "g", "e", Load(served=count, answered=count, model_mean_s=0.015, services=((0.015, 100),)), 1.0, second
        )
        measure.take_cpu({"m-1 7": Cpu(count * 0.01, count * 0.014, cores)})
    assert _workload(measure).cores_busy() == pytest.approx(expected)


def test_what_a_gateway_waits_for_a_core_makes_no_model_smaller() -> None:
    """A model that spins for 10 ms; its calls hold a slot for 20, since the gateway reads the answers late."""
    measure = Measure()
    for second in range(5):
        count = 100 * second
        load = Load(served=count, answered=count, mean_s=0.02, model_mean_s=0.01, services=((0.02, 100),))
        measure.take("g", "e", load, 1.0, second)
        measure.take_cpu({"m-1 7": Cpu(count * 0.01, 0.0, 1.0)})
    assert _workload(measure).cores_busy() == pytest.approx(1.0)


def test_a_batch_curve_comes_from_the_gateway_that_saw_most() -> None:
    measure = Measure()
    batches = {"sent": 9, "base_s": 0.01, "item_s": 0.001, "size_max": 16, "reason": "x", "sizes": {}, "limits": {}}
    load = msgspec.convert({"served": 60, "services": [[0.02, 60]], "batches": batches}, Load)
    measure.take("g", "e", load, 0.5, 0.0)
    curve = _workload(measure).curve
    assert curve is not None and (curve.base_s, curve.item_s, curve.batch_max) == (0.01, 0.001, 16)


def test_how_often_it_is_used_fades() -> None:
    measure = Measure()
    for second in range(600):
        measure.take("g", "e", Load(arrivals=2 * second), 1.0, float(second))
    assert measure.frequency(600.0) == pytest.approx(2 * (1 - 1 / math.e), rel=0.05)
    assert measure.frequency(1200.0) < measure.frequency(600.0) / 2.5


def _workload(measure: Measure) -> Any:
    found = measure.workload(concurrency=1, expected_s=None, memory_bytes=0, startup_s=1.0)
    assert found is not None
    return found


# start-up times


def status(state: ReplicaState, id: str = "m-1") -> ReplicaStatus:
    return ReplicaStatus(id=id, backend="m", generation=1, fingerprint="f", address="", state=state)


def test_a_start_is_measured_from_demand_to_ready_and_remembered_by_fingerprint() -> None:
    startups = StartUps()
    assert startups.expected_s("m", "f") is None
    startups.recall("m", 9.0)
    assert startups.expected_s("m", "f") == 9.0, "what an earlier controller knew"
    startups.begun("m-1", "m", "f", 100.0)
    startups.observe(status("starting"), 101.0)
    startups.observe(status("ready"), 104.0)
    assert startups.expected_s("m", "f") == 4.0
    startups.observe(status("ready"), 110.0)
    startups.begun("m-2", "m", "f", 110.0)
    startups.observe(status("backoff", "m-2"), 111.0)
    startups.observe(status("ready", "m-2"), 130.0)
    assert startups.expected_s("m", "f") == 4.0, "a start that failed first tells nothing"
    startups.begun("m-3", "m", "f", 200.0)
    startups.observe(status("ready", "m-3"), 202.0)
    assert startups.expected_s("m", "f") == 3.0
    assert startups.expected_s("m", "other code") == 9.0


def test_a_start_that_is_late_is_foreseen_to_need_as_long_again_as_it_is_late() -> None:
    startups = StartUps()
    startups.begun("m-1", "m", "f", 100.0)
    assert startups.foreseen_s("m", "f", 100.0) is None
    assert startups.foreseen_s("m", "f", 103.0) == 6.0, "of an unknown one nothing else is known"
    assert startups.under_way == {"m"}
    startups.observe(status("ready"), 104.0)
    assert startups.foreseen_s("m", "f", 200.0) == 4.0
    assert startups.under_way == set()
    startups.begun("m-2", "m", "f", 300.0)
    startups.begun("m-3", "m", "f", 309.0)
    assert startups.foreseen_s("m", "f", 303.9) == 4.0, "it is in time"
    assert startups.foreseen_s("m", "f", 310.0) == 16.0, "6 s late: 6 s more"
    assert startups.foreseen_s("m", "other code", 310.0) is None
    assert startups.expected_s("m", "f") == 4.0, "what is measured is not touched by it"
