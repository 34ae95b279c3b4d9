"""Who gets what of one machine, and who gives way: the laws of `control.budget`, one by one and by chance."""

from __future__ import annotations

import random

import msgspec
import pytest

from muleteer.control.budget import Allocation, allocate
from muleteer.control.claims import Demand, Holding, residence_s
from muleteer.control.share import Budget

GB = 10**9


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


def test_those_who_would_wait_for_the_same_room_for_too_long_are_refused() -> None:
    held = [holds("a", ready_s=2.0), holds("b", ready_s=0.0)]
    asleep = [wants(name, waited_s=waited) for name, waited in (("x", 3.0), ("y", 2.0), ("z", 1.0))]
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


def test_models_of_unknown_size_start_one_by_one_when_memory_is_short() -> None:
    demands = [wants(name, known=False, waited_s=1.0) for name in "abc"]
    found = allocate(demands, [], machine(3.5))
    assert counts(found) == {"a": 1, "b": 0, "c": 0}
    assert counts(allocate(demands, [], machine(4))) == {"a": 1, "b": 1, "c": 0}, "each could be twice as large"
    assert counts(allocate(demands, [], machine(6))) == {"a": 1, "b": 1, "c": 1}
    found = allocate(demands, [holds("x", state="starting", known=False, reserved_bytes=GB)], machine(3.5))
    assert counts(found) == {"a": 0, "b": 0, "c": 0}
    assert found.grants["a"].limited_by == "start"
    assert found.refused == {}, "they wait for it to be measured"
    slow = [wants(name, known=False, waited_s=1.0, startup_s=4.0) for name in "abc"]
    found = allocate(slow, [holds("x", state="starting", known=False, reserved_bytes=GB)], machine(2.5))
    assert set(found.refused) == {"c"}, "it would wait for two starts before its own"


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
    starting = holds("x", state="starting", known=False, reserved_bytes=GB)
    found = allocate([wants("a", least=1, surge=1, known=False)], [held[0], starting], machine(3))
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
        demands, held = [], []
        for name in "abcdefgh"[: dice.randrange(1, 9)]:
            least = dice.randrange(3) if dice.random() < 0.3 else 0
            size = dice.choice([GB // 4, GB, 3 * GB])
            gpus = dice.choice([0.0, 0.0, 0.5, 1.0])
            demands.append(
                wants(name, max(least, dice.randrange(5)), least=least, memory_bytes=size, gpus=gpus,
                      surge=dice.randrange(2), waited_s=dice.choice([0.0, 1.0]), known=dice.random() < 0.7,
                      cores=dice.choice([0.0, 1.0]), weight=dice.choice([1.0, 3.0]), rate=dice.random())
            )  # fmt: skip
            held += [
                holds(name, n, state=dice.choice(["ready", "ready", "starting", "leaving"]), busy=dice.random() < 0.4,
                      ready_s=dice.choice([0.0, 99.0]), memory_bytes=size, reserved_bytes=size, gpus=gpus)
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
        if used <= budget.memory_bytes:
            least = {d.backend: d.least for d in demands}
            fair_only = [id for id in found.victims if by_id[id].busy]
            assert all(staying[by_id[id].backend] > 1 for id in fair_only)
            assert all(staying[name] - ended[name] >= min(staying[name], least[name]) for name in staying)
        assert len(set(found.victims)) == len(found.victims)
        assert not {by_id[id].state for id in found.victims} & {"leaving"}
