"""The words of `explain`, whole, for a backend in each state."""

import pytest

from muleteer.control.explain import Explanation, explain, sentences
from muleteer.control.fleet import BackendStatistics, ReplicaStatistics
from muleteer.control.queueing import Service
from muleteer.control.reasons import explained
from muleteer.control.scaling import Room
from muleteer.control.share import Grant
from muleteer.control.sizing import Workload
from muleteer.control.sizing_view import BatchView, SizingView
from muleteer.control.status import GatewayView
from muleteer.engine.port import ReplicaStatus
from muleteer.spec.settings import BackendSettings, BackendSpec, Replicas, Slo
from muleteer.supervise.process import LastExit

EVEN = Service(((0.020, 0.95), (0.040, 0.05)))
WORKLOAD = Workload(service=EVEN, cpu_s=0.010, cpu_wait_s=0.001, memory_bytes=50 * 2**20, startup_s=0.5)
ELASTIC = BackendSettings(slo=Slo(0.1), replicas=Replicas(1, 8))


def view(**changes):
    return SizingView(
        **{
            "backend": "b",
            "replicas": 6,
            "reason": "6 at 200 calls/s, planned for 206/s in 500ms: expected p99 61ms of 100ms, 72 % busy",
            "limited_by": "rate",
            "one_more": "with 7: p99 48ms instead of 61ms, 62 % busy instead of 72 %, 50MiB more memory",
            "wanted": 6,
            "min": 1,
            "max": 8,
            "elastic": True,
            "target_s": 0.1,
            "target_reason": "as declared",
            "rate": 200.0,
            "workload": WORKLOAD,
            "samples": 5000,
            "room": Room(4.0),
            "grant": Grant("b", 6, "", "6: all it wants"),
            "queue_bound": 8000,
            "queue_reason": "8000 may wait: …",
            "start_s": 0.5,
            "memory_bytes": 50 * 2**20,
            **changes,
        }
    )


def text(settings, ready, wanted, seen, trouble=None):
    return "\n".join(f"{each.topic}: {each.text}" for each in sentences(settings, ready, wanted, trouble, seen))


def test_a_backend_under_load():
    assert (
        text(ELASTIC, 6, 6, view())
        == """\
replicas: 6 ready, as wanted. 6 at 200 calls/s, planned for 206/s in 500ms: expected p99 61ms of 100ms, 72 % busy
limit: nothing is in the way: rate and target alone decide
measured: 200 calls/s; a call takes 21ms (mean), 40ms (p99), variation c² 0.04; of it 10ms on a core, 1ms waiting for \
one: a busy replica uses 0.5 cores
expected: p50 20ms, p99 46.4ms, where 100ms is aimed at (as declared); 70 % busy
one more: planned like that, with 7: p99 48ms instead of 61ms, 62 % busy instead of 72 %, 50MiB more memory
budget: 6: all it wants
queue: 8000 may wait: …
batch: one by one: no batch was sent yet; the model may not take any
idle: never asleep: at least 1 runs
memory: a replica uses 50MiB (PSS: a page that several share counts in parts)
start: 500ms from a demand to the first call"""
    )


def test_before_anything_was_measured():
    spec = BackendSpec(name="b", target="m.py:M", base_dir="/", settings=ELASTIC)
    assert (
        text(ELASTIC, 1, 1, explained(spec, None, None, None))
        == """\
replicas: 1 ready, as wanted. 1: no call was seen yet
limit: nothing is measured yet
measured: nothing yet: until 50 calls were answered, what the warm-up with `example` takes counts
queue: how many calls may wait follows from how long they take
batch: one by one: no batch was sent yet; the model may not take any
idle: never asleep: at least 1 runs
memory: not measured yet: a guess is reserved for a replica
start: not measured yet"""
    )


def test_where_0_replicas_are_declared_nothing_is_advised():
    settings = BackendSettings(slo=Slo(0.1), replicas=0)
    spec = BackendSpec(name="b", target="m.py:M", base_dir="/", settings=settings)
    none = view(replicas=0, wanted=0, min=0, max=0, elastic=False, advice="4 at 200 calls/s: …")
    assert text(settings, 0, 0, none).startswith("replicas: none runs: none is declared\nmeasured: 200 calls/s; ")
    assert "one more: " not in text(settings, 0, 0, none)
    assert text(settings, 0, 0, explained(spec, None, None, None)).startswith(
        "replicas: none runs: none is declared\nmeasured: nothing yet"
    )


def test_what_is_remembered_of_one_that_ran_is_no_guess():
    settings = BackendSettings(replicas=Replicas(0, 4))
    spec = BackendSpec(name="b", target="m.py:M", base_dir="/", settings=settings)
    asleep = explained(spec, None, None, None, memory_bytes=50 * 2**20)
    assert "memory: a replica uses 50MiB (PSS" in text(settings, 0, 0, asleep)
    assert explain(spec, BackendStatistics("b", 1, 0, ()), [], asleep).numbers.memory_bytes == 50 * 2**20


def test_a_guess_is_called_one():
    guess = Workload(service=Service(((0.2, 1.0),)))
    few = view(workload=guess, samples=12)
    assert (
        "measured: 12 of 50 calls that are needed; until then the warm-up counts: a call is assumed to take 200ms"
        in (text(ELASTIC, 6, 6, few))
    )
    assert "until then `expected` counts" in text(BackendSettings(expected=0.2), 6, 6, few)
    assert "expected: " not in text(ELASTIC, 6, 6, few)


def test_a_backend_that_sleeps():
    settings = BackendSettings(replicas=Replicas(0, 4))
    asleep = view(
        replicas=0, wanted=0, min=0, max=4, rate=0.0, reason="0: no call for 31 s", one_more="", target_s=0.2,
        idle_s=30.0, idle_reason="an idle replica is kept for 30 s: …", grant=None, queue_reason="",
    )  # fmt: skip
    assert (
        text(settings, 0, 0, asleep)
        == """\
replicas: none runs: it sleeps, and a call wakes it. 0: no call for 31 s
limit: nothing is in the way: rate and target alone decide
measured: 0 calls/s; a call takes 21ms (mean), 40ms (p99), variation c² 0.04; of it 10ms on a core, 1ms waiting for \
one: a busy replica uses 0.5 cores
queue: how many calls may wait follows from how long they take
batch: one by one: no batch was sent yet; the model may not take any
idle: an idle replica is kept for 30 s: …
memory: a replica uses 50MiB (PSS: a page that several share counts in parts)
start: 500ms from a demand to the first call"""
    )


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        (2, "Too few for the target of 100ms at 200 calls/s: 5 would be enough. Sizing would plan 7 at 206/s"),
        (5, "Just enough for the target of 100ms at 200 calls/s. Sizing would plan 7 at 206/s"),
        (9, "More than needed for the target of 100ms at 200 calls/s: 5 would be enough. Sizing would plan 7 at 206/s"),
    ],
)
def test_a_fixed_number_is_judged(replicas, words):
    fixed = view(replicas=replicas, wanted=replicas, elastic=False, advice="7 at 206/s", limited_by="fixed")
    said = text(BackendSettings(replicas=replicas), replicas, replicas, fixed)
    assert said.startswith(f"replicas: {replicas} ready, as wanted: that number is declared. {words}\nmeasured: ")
    assert "limit:" not in said


def test_a_fixed_number_without_a_target_is_judged_by_the_timeout():
    fixed = view(replicas=9, wanted=9, elastic=False, target_s=None, advice="", limited_by="fixed")
    assert "More than needed for a timeout of 2s at 200 calls/s: 5 would be enough" in text(
        BackendSettings(replicas=9, timeout=2.0), 9, 9, fixed
    )


def test_what_no_number_keeps_is_said():
    fixed = view(replicas=2, wanted=2, elastic=False, target_s=0.01)
    assert "No number keeps the target of 10ms at 200 calls/s" in text(BackendSettings(replicas=2), 2, 2, fixed)


def test_a_budget_that_grants_less():
    few = view(wanted=3, grant=Grant("b", 3, "memory", "3 of 6 wanted: another takes 50MiB and 4MiB are left"))
    said = text(ELASTIC, 3, 3, few)
    assert "planned for 206/s in 500ms: expected p99 61ms of 100ms, 72 % busy; the budget leaves 3" in said
    assert "expected: p50 without bound, p99 without bound, where 100ms is aimed at (as declared); 140 % busy" in said
    assert "budget: 3 of 6 wanted: another takes 50MiB and 4MiB are left" in said


def test_batches():
    batched = view(batch=BatchView(55, "target", "up to 55: …", 0.002))
    assert "batch: up to 55: …; an incomplete one waits 2ms" in text(ELASTIC, 6, 6, batched)
    assert "batch: one by one: batches are switched off" in text(BackendSettings(batch="off"), 1, 1, view())


def test_a_backend_that_does_not_start():
    last_exit = LastExit(reason="constructor_raised", message="M() raised ValueError: no weights\n  m.py line 3")
    status = ReplicaStatus(id="b-1", backend="b", generation=1, address="", state="failed", last_exit=last_exit)
    spec = BackendSpec(name="b", target="m.py:M", base_dir="/")
    backend = BackendStatistics("b", 1, 1, (ReplicaStatistics(status, 1.0, None, False, False),))
    found = explain(spec, backend, [GatewayView()], explained(spec, None, None, None))
    assert isinstance(found, Explanation)
    assert (found.state, found.ready, found.wanted, found.limited_by) == ("failed", 0, 1, "fixed")
    assert [(each.topic, each.text) for each in found.sentences[:2]] == [
        ("trouble", "M() raised ValueError: no weights"),
        (
            "replicas",
            "0 ready, 1 wanted: that number is declared. What would be enough is known once calls were measured",
        ),
    ]
    assert found.numbers.rate == 0


def test_the_numbers_are_those_of_the_words():
    spec = BackendSpec(name="b", target="m.py:M", base_dir="/", settings=ELASTIC)
    found = explain(spec, BackendStatistics("b", 1, 6, ()), [], view())
    numbers = found.numbers
    assert (numbers.rate, numbers.mean_s, numbers.p99_s) == (200.0, pytest.approx(0.021), 0.04)
    assert numbers.cores_busy == pytest.approx(0.5)
    assert numbers.utilisation == pytest.approx(0.7)
    assert numbers.expected_p50_s < numbers.expected_p99_s < 0.1
    few = explain(spec, BackendStatistics("b", 1, 3, ()), [], view(wanted=3)).numbers
    assert (few.expected_p99_s, few.utilisation) == (None, pytest.approx(1.4))
