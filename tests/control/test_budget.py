"""Who gets what of one machine, and who gives way: the laws of `control.budget`, one by one and by chance."""

from __future__ import annotations

import random

import msgspec
import pytest

from muleteer.control.budget import Allocation, allocate
from muleteer.control.claims import Demand, Holding, residence_s
from muleteer.control.ledger import Ledger
from muleteer.control.share import Budget

GB = 10**9
MB = 10**6


def wants(backend: str, wanted: int = 1, **more: object) -> Demand:
    return Demand(**{"backend": backend, "wanted": wanted, "memory_bytes": GB, **more})


def holds(backend: str, number: int = 1, **more: object) -> Holding:
    settled = {"ready_s": 1000.0, "idle_s": 100.0, "memory_bytes": GB}
    return Holding(**{"backend": backend, "replica": f"{backend}-{number}", **settled, **more})


def counts(found: Allocation) -> dict[str, int]:
    return {name: grant.replicas for name, grant in found.grants.items()}


def machine(memory: float = 3, cores: float = 8, gpus: float = 0) -> Budget:
    return Budget(int(memory * GB), cores, gpus)


def test_starts_up_to_the_memory_and_no_further() -> None:
    found = allocate([wants("a", 5)], [holds("a")], machine(3))
    assert counts(found) == {"a": 3}
    assert found.grants["a"].limited_by == "memory"
    assert found.grants["a"].reason.startswith("3 of 5 wanted: another takes 953.7MiB and 0B are left")
    assert found.victims == ()


def test_what_leaves_still_holds_its_memory_and_is_kept_for_who_waits() -> None:
    leaving = [holds("b", state="leaving"), holds("c"), holds("d")]
    found = allocate([wants("a", waited_s=1.0), wants("c")], leaving, machine(3))
    assert counts(found)["a"] == 0, "not before it is gone"
    assert found.refused == {}
    assert "room is being made" in found.grants["a"].reason
    assert found.victims == (), "what leaves is enough"
    after = allocate([wants("a", waited_s=2.0), wants("z")], leaving[1:], machine(3))
    assert counts(after) == {"a": 1, "z": 0}


def test_the_least_valuable_idle_one_goes_when_calls_wait() -> None:
    held = [holds("hot"), holds("cold"), holds("slow")]
    demands = [
        wants("hot", rate=50.0),
        wants("cold", rate=0.001),
        wants("slow", rate=0.01, startup_s=60.0),
        wants("new", waited_s=0.3),
    ]
    found = allocate(demands, held, machine(3))
    assert found.victims == ("cold-1",)
    assert counts(found) == {"hot": 1, "cold": 0, "slow": 1, "new": 0}
    assert found.refused == {}, "it waits for the room that is being made"


def test_nobody_is_given_up_for_a_backend_that_nobody_calls() -> None:
    found = allocate([wants("a"), wants("b")], [holds("a")], machine(1))
    assert found.victims == ()
    assert counts(found) == {"a": 1, "b": 0}
    assert found.refused == {}, "a call would make room"
    found = allocate([wants("a"), wants("b")], [holds("a", busy=True)], machine(1))
    assert found.refused["b"].reason.startswith("one more takes")


@pytest.mark.parametrize(
    "change",
    [{"busy": True, "idle_s": 0.0}, {"ready_s": 1.0}, {"state": "starting"}],
    ids=["works on a call", "is new", "starts"],
)
def test_whom_nobody_may_give_up(change: dict[str, object]) -> None:
    found = allocate([wants("a"), wants("b", waited_s=9.0)], [holds("a", **change)], machine(1))
    assert found.victims == ()
    assert ("b" in found.refused) == ("busy" in change), "the others will have served their time soon"


def test_a_declared_minimum_is_kept_and_is_made_room_for() -> None:
    found = allocate([wants("a", least=1), wants("b", waited_s=9.0)], [holds("a")], machine(1))
    assert found.victims == ()
    assert "b" in found.refused
    found = allocate([wants("a"), wants("b", 2, least=2)], [holds("a"), holds("b")], machine(2))
    assert found.victims == ("a-1",)


def test_of_two_idle_ones_only_what_is_beyond_the_minimum_goes() -> None:
    held = [holds("a", 1, idle_s=5.0), holds("a", 2, idle_s=50.0)]
    found = allocate([wants("a", 2, least=1), wants("b", waited_s=1.0)], held, machine(2))
    assert found.victims == ("a-2",)
    found = allocate([wants("a", 2, least=1), wants("b", waited_s=1.0, memory_bytes=2 * GB)], held, machine(2))
    assert found.victims == ()


def test_a_refusal_says_when_to_come_back() -> None:
    held = [holds("a", ready_s=0.5)]
    found = allocate([wants("a", startup_s=20.0), wants("b", waited_s=1.0)], held, machine(1))
    assert found.refused["b"].retry_s == pytest.approx(residence_s(20.0) - 0.5)
    found = allocate([wants("b", waited_s=1.0, memory_bytes=2 * GB)], [], machine(1))
    assert found.refused["b"].retry_s is None


def test_what_is_more_than_all_there_is_never_fits() -> None:
    asked = [wants("a", memory_bytes=11), wants("b", memory_bytes=10), wants("c", memory_bytes=10), wants("d", gpus=2)]
    refused = allocate(asked, [], Budget(10, 8, 1)).refused
    assert {name: each.never for name, each in refused.items()} == {"a": True, "c": False, "d": True}
    assert refused["a"].reason == "a replica takes 11B, and all that replicas may hold is 10B"
    assert refused["d"].reason == "a replica takes 2 GPUs, and there are 1"


def test_a_caller_waits_a_moment_for_one_that_works_to_be_done() -> None:
    held = [holds("a", busy=True, idle_s=0.0), holds("b", busy=True, idle_s=0.0), holds("c", busy=True, idle_s=0.0)]
    rest = [wants("a", least=1), wants("b"), wants("c", waited_s=0.1)]
    come = allocate([wants("new", waited_s=0.1), *rest], held, machine(3))
    assert come.refused == {}, "b may be idle in a moment"
    assert come.victims == (), "and is not ended before"
    stayed = allocate([wants("new", waited_s=2.0), *rest], held, machine(3))
    assert set(stayed.refused) == {"new"}, "b does not rest"


def test_those_who_would_wait_for_the_same_room_for_too_long_are_refused() -> None:
    held = [holds("a", ready_s=2.0), holds("b", ready_s=0.0)]
    asleep = [wants(name, waited_s=waited) for name, waited in (("x", 4.0), ("y", 3.0), ("z", 2.0))]
    found = allocate([wants("a", startup_s=2.0), wants("b", startup_s=2.0), *asleep], held, machine(2))
    assert set(found.refused) == {"z"}, "there is room for two of them within seconds"
    held[1] = msgspec.structs.replace(held[1], busy=True)
    found = allocate([wants("a", startup_s=2.0), wants("b", startup_s=2.0), *asleep], held, machine(2))
    assert set(found.refused) == {"y", "z"}


def test_a_busy_backend_gives_back_what_is_beyond_its_fair_share() -> None:
    held = [holds("a", n, busy=True, idle_s=0.0) for n in range(1, 4)]
    found = allocate([wants("a", 9, waited_s=5.0), wants("b", 2, waited_s=5.0)], held, machine(3))
    assert len(found.victims) == 1
    assert counts(found) == {"a": 2, "b": 0}
    assert found.refused == {}


def test_weights_say_what_is_fair() -> None:
    held = [holds("a", n, busy=True, idle_s=0.0) for n in range(1, 7)]
    demands = [wants("a", 9, waited_s=5.0, weight=2.0), wants("b", 9, waited_s=5.0)]
    for _ in range(20):
        found = allocate(demands, held, machine(6))
        stay = [each for each in held if each.replica not in found.victims]
        room = found.grants["b"].replicas - sum(each.backend == "b" for each in stay)
        held = stay + [holds("b", 100 + len(stay) + n, busy=True, idle_s=0.0) for n in range(room)]
    assert sum(each.backend == "a" for each in held) == 4
    assert sum(each.backend == "b" for each in held) == 2


def test_cores_beyond_the_machine_are_taken_back_from_who_has_most() -> None:
    held = [holds("a", n, busy=True, idle_s=0.0) for n in range(1, 5)] + [holds("b", busy=True, idle_s=0.0)]
    demands = [wants("a", 4, cores=1.0, waited_s=1.0), wants("b", 2, cores=1.0, waited_s=1.0)]
    found = allocate(demands, held, machine(100, cores=4))
    assert counts(found) == {"a": 3, "b": 2}
    assert found.grants["a"].limited_by == "cpu"
    alone = allocate([demands[0], wants("b")], held[:4], machine(100, cores=4))
    assert counts(alone) == {"a": 4, "b": 1}, "what nobody else uses is not taken back"


def test_an_update_goes_on_where_the_cores_are_all_spoken_for() -> None:
    held = [holds("a", 1), holds("a", 2)]
    found = allocate([wants("a", 2, least=2, cores=1.0, surge=1)], held, machine(100, cores=2))
    assert counts(found) == {"a": 3}, "the new one takes the place of an old one"
    busy = [holds("a", n, busy=True, idle_s=0.0) for n in range(1, 5)] + [holds("b", busy=True, idle_s=0.0)]
    crowded = [wants("a", 4, cores=1.0, waited_s=1.0, surge=1), wants("b", 2, cores=1.0, waited_s=1.0)]
    assert counts(allocate(crowded, busy, machine(100, cores=4)))["a"] == 3, "or an old one gives way first"


def test_slow_starts_of_unknown_size_leave_the_rest_of_the_memory_to_others() -> None:
    """A guess is an eighth of the machine, twice that is set aside: three starts take three quarters of it."""
    slow = [
        holds(name, state="starting", known=False, memory_bytes=0, reserved_bytes=GB, ready_s=0.0) for name in "xyz"
    ]
    demands = [*(wants(name, startup_s=60.0) for name in "xyz"), wants("a", waited_s=1.0, memory_bytes=GB // 3)]
    assert counts(allocate([*demands, wants("b", memory_bytes=GB // 2)], slow, machine(4))) == dict.fromkeys("xyzab", 1)
    assert counts(allocate([*demands[:3], wants("c", waited_s=1.0)], slow, machine(4)))["c"] == 1


def test_who_waits_for_others_to_be_measured_waits_if_that_is_soon() -> None:
    """What was set aside for a guess is half free, most likely, once it is ready."""
    starting = [
        holds(name, state="starting", known=False, memory_bytes=0, reserved_bytes=GB, ready_s=0.0) for name in "xy"
    ]
    demands = [wants("x"), wants("y"), wants("a", waited_s=1.0)]
    found = allocate(demands, starting, machine(2))
    assert counts(found)["a"] == 0
    assert found.refused == {}
    slow = [wants("x", startup_s=9.0), wants("y", startup_s=9.0), demands[2]]
    assert allocate(slow, starting, machine(2)).refused["a"].retry_s == pytest.approx(10.0)
    late = [msgspec.structs.replace(each, starting_s=7.0) for each in starting]
    assert allocate(slow, late, machine(2)).refused == {}, "nine seconds, of which seven are over"
    ready = [msgspec.structs.replace(each, state="ready", ready_s=0.3, idle_s=0.0, busy=True) for each in starting]
    least = [wants("x", least=1), wants("y", least=1), wants("a", waited_s=1.0)]
    assert allocate(least, ready, machine(2)).refused == {}, "they are measured in a moment"
    measured = [msgspec.structs.replace(each, memory_bytes=MB, idle_s=0.3, busy=False) for each in ready]
    assert allocate(demands, measured, machine(2)).refused == {}
    full = [msgspec.structs.replace(each, memory_bytes=GB) for each in ready]
    assert set(allocate(least, full, machine(2)).refused) == {"a"}


@pytest.mark.parametrize("seed", range(8))
def test_models_of_unknown_size_that_all_start_at_once_never_exceed_the_memory(seed: int) -> None:
    """12 classes of up to twice the guess, an eighth of the machine; some slow to load, measured once they are ready."""
    dice, ledger, budget = random.Random(seed), Ledger(), Budget(512 * MB, 64)
    names = [f"m{number}" for number in range(12)]
    sizes = {
        name: dice.randrange(10, 30) * MB if dice.random() < 0.2 else dice.randrange(90, 128) * MB for name in names
    }
    loads = {name: 30.0 if dice.random() < 0.25 else 1.0 for name in names}
    called = dict.fromkeys(names, 0.0)
    served: set[str] = set()
    held: dict[str, Holding] = {}
    for tick in range(600):
        now = tick * 0.5
        if dice.random() < 0.5:
            called.setdefault(dice.choice(names), now)
        for name, each in list(held.items()):
            starting = each.state == "starting"
            part = min(1.0, (each.starting_s + 0.5) / loads[name]) if starting else 1.0
            clock = {"starting_s": each.starting_s + 0.5} if starting else {"ready_s": each.ready_s + 0.5}
            clock["idle_s"] = each.idle_s + 0.5
            held[name] = msgspec.structs.replace(each, memory_bytes=int(part * sizes[name]), **clock)
            if starting and part == 1.0:
                held[name] = msgspec.structs.replace(held[name], state="ready", starting_s=0.0)
                served.add(name)
                called.pop(name, None)
            elif each.state == "leaving":
                del held[name]
            elif each.state == "ready":
                ledger.observe(name, name, sizes[name], 0.5)
        for name in [name for name in called if name in held and held[name].state == "ready"]:
            held[name] = msgspec.structs.replace(held[name], idle_s=0.0)
            del called[name]
        assert sum(each.memory_bytes for each in held.values()) <= 1.05 * budget.memory_bytes
        kinds = {name: ledger.reservation(name, name, None, budget) for name in names}
        demands = [
            wants(name, 1 if name in called or name in held else 0, memory_bytes=kinds[name].memory_bytes,
                  waited_s=now - called[name] + 0.1 if name in called else 0.0, startup_s=loads[name], rate=0.04)
            for name in names
        ]  # fmt: skip
        found = allocate(demands, list(held.values()), budget)
        for name in names:
            if name in held and held[name].replica in found.victims:
                held[name] = msgspec.structs.replace(held[name], state="leaving")
            elif name not in held and found.grants[name].replicas:
                size, known = kinds[name]
                held[name] = Holding(
                    backend=name, replica=f"{name}-{tick}", state="starting", reserved_bytes=size, known=known
                )
    assert served == set(names), "each had its turn"


def test_a_start_holds_what_was_set_aside_until_it_is_measured() -> None:
    loading = holds("a", state="starting", memory_bytes=GB // 10, reserved_bytes=2 * GB)
    assert counts(allocate([wants("a"), wants("b")], [loading], machine(2.5)))["b"] == 0
    just_ready = msgspec.structs.replace(loading, state="ready", ready_s=0.1)
    assert counts(allocate([wants("a"), wants("b")], [just_ready], machine(2.5)))["b"] == 0, "measured while it loaded"
    ready = msgspec.structs.replace(loading, state="ready")
    assert counts(allocate([wants("a"), wants("b")], [ready], machine(2.5)))["b"] == 1


def test_an_update_has_room_made_for_it_or_drains_first() -> None:
    demands = [wants("a", least=1, surge=1), wants("b")]
    found = allocate(demands, [holds("a"), holds("b")], machine(2))
    assert (found.victims, found.drain_first) == (("b-1",), frozenset())
    found = allocate([wants("a", least=1, surge=1)], [holds("a")], machine(1.5))
    assert found.drain_first == {"a"}
    assert counts(found) == {"a": 1}
    found = allocate([wants("a", least=1, surge=1)], [holds("a")], machine(2))
    assert (counts(found), found.drain_first) == ({"a": 2}, frozenset())


def test_an_update_waits_for_room_that_comes_soon() -> None:
    held = [holds("a"), holds("b", ready_s=0.5)]
    found = allocate([wants("a", least=1, surge=1), wants("b")], held, machine(2))
    assert (found.victims, found.drain_first) == ((), frozenset())
    starting = holds("x", state="starting", known=False, reserved_bytes=2 * GB, ready_s=0.0)
    found = allocate([wants("a", least=1, surge=1), wants("x")], [held[0], starting], machine(3))
    assert found.drain_first == frozenset(), "nor while it waits for another to be measured"


def test_one_that_starts_is_no_reason_to_end_the_last_that_serves() -> None:
    held = [holds("a"), holds("a", 2, state="starting")]
    found = allocate([wants("a", 2, least=1), wants("b", waited_s=1.0)], held, machine(2))
    assert found.victims == ()


def test_growth_ends_idle_ones_first_whatever_their_age() -> None:
    held = [holds("a", memory_bytes=2 * GB, busy=True), holds("b", ready_s=1.0), holds("c", ready_s=1.0)]
    found = allocate([wants("a"), wants("b", rate=9.0), wants("c")], held, machine(3))
    assert found.victims == ("c-1",)
    assert found.problem is not None
    assert "giving up c-1" in found.problem
    assert counts(found) == {"a": 1, "b": 1, "c": 0}


def test_growth_of_busy_ones_replaces_the_one_furthest_beyond_what_it_declared() -> None:
    held = [
        holds("a", memory_bytes=2 * GB, declared_bytes=GB, busy=True),
        holds("b", memory_bytes=2 * GB, declared_bytes=2 * GB, busy=True),
    ]
    demands = [wants("a", least=1), wants("b", least=1, memory_bytes=2 * GB)]
    found = allocate(demands, held, machine(3))
    assert found.victims == ("a-1",)
    assert "replacing a-1" in str(found.problem)
    after = allocate(demands, [msgspec.structs.replace(held[0], state="leaving"), held[1]], machine(3))
    assert (after.victims, after.problem) == ((), None), "one at a time: it is on its way out"
    assert counts(after) == {"a": 0, "b": 1}


def test_nothing_to_blame_is_said_and_nobody_ended() -> None:
    held = [holds("a", memory_bytes=4 * GB, declared_bytes=4 * GB, busy=True)]
    found = allocate([wants("a", least=1)], held, machine(3))
    assert found.victims == ()
    assert "none of them is idle" in str(found.problem)


def test_gpus_are_counted_and_freed_like_memory() -> None:
    held = [holds("a", gpus=1.0), holds("b", gpus=1.0, busy=True), holds("c")]
    demands = [wants("a", gpus=1.0), wants("b", gpus=1.0), wants("c"), wants("d", gpus=1.0, waited_s=1.0)]
    found = allocate(demands, held, machine(9, gpus=2))
    assert found.victims == ("a-1",), "ending c would free no device"
    assert found.grants["d"].limited_by == "gpu"
    never = allocate([wants("d", gpus=3.0, waited_s=1.0)], held, machine(9, gpus=2))
    assert never.victims == ()
    assert "d" in never.refused


def test_named_resources_are_counted_and_freed_each_by_itself() -> None:
    disk, key = {"disk": 1.0}, {"key": 1.0}
    held = [holds("a", resources=key), holds("b", resources=disk, busy=True), holds("c", resources=disk), holds("x")]
    demands = [wants("a"), wants("b", 2, resources=disk), wants("c", resources=disk), wants("x")]
    waits = wants("d", resources={"disk": 1.0, "key": 1.0}, waited_s=1.0)
    there = Budget(9 * GB, 8, resources={"disk": 2.0, "key": 1.0})
    found = allocate([*demands, waits], held, there)
    assert sorted(found.victims) == ["a-1", "c-1"], "and x holds nothing of it, b works"
    assert found.grants["b"].limited_by == "resource"
    assert found.grants["b"].reason == "1 of 2 wanted: one more takes 1 disk and 0 are free"


def test_a_resource_of_which_there_is_too_little_is_named_and_nobody_is_given_up_for_it() -> None:
    there = Budget(9 * GB, 8, resources={"disk": 1.0})
    demands = [wants("a", resources={"disk": 1.0}), wants("b", least=1, resources={"disk": 2.0}, waited_s=1.0)]
    found = allocate(demands, [holds("a", resources={"disk": 1.0})], there)
    assert found.victims == ()
    assert found.refused["b"].reason == "a replica takes 2 disk, and there are 1"
    none = allocate([wants("b", resources={"disk": 2.0})], [], Budget(9 * GB, 8)).refused["b"]
    assert none.reason == "a replica takes 2 disk, and there are 0"


def test_a_small_one_does_not_overtake_for_ever() -> None:
    """The one that waits longest is asked first, so room that comes free is kept for it."""
    demands = [wants("big", memory_bytes=2 * GB, waited_s=10.0), wants("small", waited_s=0.1)]
    found = allocate(demands, [holds("x", state="leaving"), holds("y", busy=True)], machine(3))
    assert counts(found) == {"big": 0, "small": 0}


def test_two_models_on_room_for_one_take_turns() -> None:
    """Both always have calls: each serves for its residence, and loads no more than a third of the time."""
    startup, tick = 2.0, 0.25
    owner, state, since, switches = "a", "ready", 0.0, 0
    waited = {"a": 0.0, "b": 0.0}
    for step in range(4000):
        now = step * tick
        other = "b" if owner == "a" else "a"
        waited[other] += tick
        held = [holds(owner, state=state, ready_s=now - since if state == "ready" else 0.0, idle_s=0.1)]
        demands = [wants(name, startup_s=startup, waited_s=waited[name], rate=5.0) for name in "ab"]
        found = allocate(demands, held, machine(1))
        if state == "starting" and now - since >= startup:
            state, since = "ready", now
            waited[owner] = 0.0
        elif found.victims:
            owner, state, since, switches = other, "starting", now, switches + 1
    assert switches == pytest.approx(4000 * tick / (startup + residence_s(startup)), rel=0.15)


def test_many_machines_by_chance() -> None:
    """Laws 1 and 2 on 400 random machines."""
    dice = random.Random(7)
    for _ in range(400):
        budget = machine(dice.choice([2, 4, 8]), dice.choice([1, 4]), dice.choice([0, 2]))
        budget = msgspec.structs.replace(budget, resources=dice.choice([{}, {"disk": 3.0}]))
        demands, held = [], []
        for name in "abcdefgh"[: dice.randrange(1, 9)]:
            least = dice.randrange(3) if dice.random() < 0.3 else 0
            size = dice.choice([GB // 4, GB, 3 * GB])
            gpus = dice.choice([0.0, 0.0, 0.5, 1.0])
            disk = dice.choice([{}, {}, {"disk": 1.0}])
            demands.append(
                wants(name, max(least, dice.randrange(5)), least=least, memory_bytes=size, gpus=gpus, resources=disk,
                      surge=dice.randrange(2), waited_s=dice.choice([0.0, 1.0]),
                      cores=dice.choice([0.0, 1.0]), weight=dice.choice([1.0, 3.0]), rate=dice.random())
            )  # fmt: skip
            held += [
                holds(name, n, state=dice.choice(["ready", "ready", "starting", "leaving"]), busy=dice.random() < 0.4,
                      ready_s=dice.choice([0.0, 99.0]), memory_bytes=size, reserved_bytes=size, gpus=gpus,
                      resources=disk)
                for n in range(dice.randrange(4))
            ]  # fmt: skip
        found = allocate(demands, held, budget)
        by_id = {each.replica: each for each in held}
        used = sum(each.counted_bytes for each in held)
        staying = {d.backend: sum(h.backend == d.backend and h.state != "leaving" for h in held) for d in demands}
        ended = {d.backend: sum(by_id[id].backend == d.backend for id in found.victims) for d in demands}
        starts = {d.backend: found.grants[d.backend].replicas - staying[d.backend] + ended[d.backend] for d in demands}
        new = sum(max(0, starts[d.backend]) * d.memory_bytes for d in demands)
        assert new == 0 or used + new <= budget.memory_bytes
        gpus = sum(each.gpus for each in held) + sum(max(0, starts[d.backend]) * d.gpus for d in demands)
        assert all(starts[d.backend] <= 0 for d in demands if d.gpus) or gpus <= budget.gpus + 1e-6
        disks = sum(bool(each.resources) for each in held)
        disks += sum(max(0, starts[d.backend]) for d in demands if d.resources)
        assert all(starts[d.backend] <= 0 for d in demands if d.resources) or disks <= budget.resources.get("disk", 0)
        if used <= budget.memory_bytes:
            least = {d.backend: d.least for d in demands}
            fair_only = [id for id in found.victims if by_id[id].busy]
            assert all(staying[by_id[id].backend] > 1 for id in fair_only)
            assert all(staying[name] - ended[name] >= min(staying[name], least[name]) for name in staying)
        assert len(set(found.victims)) == len(found.victims)
        assert not {by_id[id].state for id in found.victims} & {"leaving"}


def test_a_minimum_that_fits_nowhere_beside_the_others_is_told_once_they_are_measured() -> None:
    demands = [wants("a", least=1), wants("b", least=1, memory_bytes=2 * GB, waited_s=1.0)]
    found = allocate(demands, [holds("a", memory_bytes=2 * GB)], machine(3))
    assert found.crowded["b"].certain
    assert found.crowded["b"].reason == (
        "no room: a replica takes 1.9GiB, and of the 2.8GiB for all replicas a holds 1.9GiB"
    )
    assert "a" not in found.crowded
    loading = holds("a", state="starting", memory_bytes=0, reserved_bytes=2 * GB, ready_s=0.0)
    assert not allocate(demands, [loading], machine(3)).crowded["b"].certain, "it may turn out smaller"
    just_ready = msgspec.structs.replace(loading, state="ready", ready_s=0.5, memory_bytes=GB)
    assert not allocate(demands, [just_ready], machine(3)).crowded["b"].certain
    small = holds("a", memory_bytes=GB)
    assert allocate(demands, [small], machine(3)).crowded == {}, "it turned out smaller"


@pytest.mark.parametrize(
    "others",
    [
        [holds("a", state="leaving", memory_bytes=2 * GB)],
        [holds("a", memory_bytes=2 * GB, busy=True, idle_s=0.0)],
        [holds("a", memory_bytes=2 * GB, ready_s=2.0)],
    ],
    ids=["leaves", "is busy", "is new"],
)
def test_room_that_comes_is_no_reason_to_give_up_on_a_minimum(others: list[Holding]) -> None:
    demands = [wants("a"), wants("b", least=1, memory_bytes=2 * GB)]
    assert allocate(demands, others, machine(3)).crowded == {}


def test_one_that_is_declared_no_more_will_leave_room() -> None:
    assert allocate([wants("b", least=1)], [holds("gone", memory_bytes=3 * GB)], machine(3)).crowded == {}


def test_as_many_of_a_minimum_as_fit_are_granted_and_the_rest_is_told() -> None:
    held = [holds("a", 1), holds("a", 2), holds("b")]
    found = allocate([wants("a", 4, least=4), wants("b", least=1)], held, machine(3.5))
    assert counts(found) == {"a": 2, "b": 1}
    assert found.crowded["a"].certain
    assert found.crowded["a"].reason == (
        "room for 2 of 4 replicas: another takes 953.7MiB, and of the 3.3GiB for all replicas a holds 1.9GiB, "
        "b 953.7MiB"
    )
    assert "b" not in found.crowded


def test_what_is_guessed_is_called_so_and_many_who_hold_the_rest_are_not_all_named() -> None:
    held = [holds(name, memory_bytes=GB // 2) for name in "abcdef"]
    demands = [*(wants(name, least=1) for name in "abcdef"), wants("x", least=1, known=False)]
    told = allocate(demands, held, machine(3.5)).crowded["x"].reason
    assert told == (
        "no room: a replica takes 953.7MiB (a guess: `memory` would say), and of the 3.3GiB for all replicas "
        "a holds 476.8MiB, b 476.8MiB, c 476.8MiB, 3 others 1.4GiB"
    )


def test_devices_that_others_keep_are_told_like_memory() -> None:
    held = [holds("a", gpus=1.0, state="starting"), holds("b", gpus=1.0)]
    demands = [wants("a", least=1, gpus=1.0), wants("b", gpus=1.0, least=1), wants("c", gpus=1.0, least=1)]
    found = allocate(demands, held, machine(9, gpus=2)).crowded
    assert found["c"].certain, "a device is held whatever is measured"
    assert found["c"].reason == "no room: a replica takes 1 GPUs, and of the 2 GPUs for all replicas a holds 1, b 1"


def test_what_never_fits_at_all_is_not_laid_to_the_others() -> None:
    found = allocate([wants("a", least=1), wants("b", least=1, memory_bytes=9 * GB)], [holds("a")], machine(3))
    assert found.crowded == {}
    assert found.refused["b"].never


def test_who_has_had_room_keeps_it_over_an_update() -> None:
    """The one that is crowded out is declared first, and must not take what an update of the other gives up."""
    demands = [wants("x", least=1, waited_s=9.0), wants("a", least=1, surge=0)]
    found = allocate(demands, [holds("a", state="leaving")], machine(1))
    assert "room is being made" in found.grants["a"].reason
    assert "x" not in found.crowded or not found.crowded["x"].certain
