"""What processes use, measured on real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from muleteer.base.limits import MEMORY_GUESS
from muleteer.control.ledger import Ledger, budget_of
from muleteer.control.meter import Meter
from muleteer.control.proc import age_s, cpu, family, memory, resident_bytes, usage
from muleteer.control.share import Budget
from muleteer.engine.port import Capacity
from tests.waiting import until

MB = 1000 * 1000
GROWS = """
import sys
held = []
print("up", flush=True)
for line in sys.stdin:
    held.append(b"x" * int(line))
    print("grown", flush=True)
"""
BURNS = """
import subprocess, sys, threading, time
def burn():
    while True: pass
for _ in range(2): threading.Thread(target=burn, daemon=True).start()
subprocess.Popen([sys.executable, "-c", "while True: pass"])
print("up", flush=True)
time.sleep(60)
"""
COUNTS = """
import sys, time
print("up", flush=True)
for line in sys.stdin:
    print(time.process_time(), flush=True)
"""


@contextmanager
def process(source: str) -> Iterator[subprocess.Popen[str]]:
    found = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert found.stdout.readline() == "up\n"
        yield found
    finally:
        os.killpg(found.pid, 9)
        found.wait()
        found.stdin.close()
        found.stdout.close()


def grow(grower: subprocess.Popen[str], size: int) -> None:
    print(size, file=grower.stdin, flush=True)
    assert grower.stdout.readline() == "grown\n"


def test_memory_that_is_shared_is_divided() -> None:
    held = b"x" * (64 * MB)
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    try:
        ours, child = usage(os.getpid()), usage(pid)
        pss, rss = memory((os.getpid(), pid))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert len(held) == 64 * MB
    assert child.rss_bytes > 64 * MB
    assert child.pss_bytes < child.rss_bytes - 30 * MB
    assert 64 * MB < pss < rss - 60 * MB, "both together hold it once"
    assert ours.pss_bytes > child.pss_bytes, "children count"


def test_cpu_of_threads_and_children_counts_and_so_does_waiting() -> None:
    with process(BURNS) as burner:
        pids: tuple[int, ...] = ()
        while len(pids) < 2:
            pids = family(burner.pid)
        until(lambda: wanted_more_than_one(pids), "more want to run than one")


def wanted_more_than_one(pids: tuple[int, ...]) -> bool:
    """In half a second. A machine that stands still runs nobody, and who waits is counted once he runs: then the next
    half second tells.
    """
    began, before = time.monotonic(), cpu(pids)
    time.sleep(0.5)  # the measured time itself
    after, seconds = cpu(pids), time.monotonic() - began
    used, waited = after[0] - before[0], after[1] - before[1]
    # two threads, of which the interpreter runs one at a time, and a child: two cores' worth, if they are there
    assert 0 <= used < min(len(os.sched_getaffinity(0)), 3) * seconds + 0.1
    return used > 0.1 * seconds and used + waited > 1.2 * seconds


def test_of_a_process_alone_its_children_count_not() -> None:
    with process(BURNS) as burner:
        while len(family(burner.pid)) < 2:
            pass
        alone = Meter(children=False).look(0.0, [burner.pid])[burner.pid]
        assert alone.rss_bytes < Meter().look(0.0, [burner.pid])[burner.pid].rss_bytes


def test_what_is_gone_is_none() -> None:
    with process(GROWS) as gone:
        assert age_s(gone.pid) is not None
    assert usage(gone.pid) is None
    assert resident_bytes(gone.pid) is None
    assert age_s(gone.pid) is None
    assert cpu((gone.pid,)) == (0.0, 0.0)


def test_growth_is_seen_at_the_next_look_and_rest_costs_no_second_one() -> None:
    meter = Meter()
    with process(GROWS) as grower:
        first = meter.look(0.0, [grower.pid])[grower.pid]
        assert first.pss_bytes > 0
        again = meter.look(0.1, [grower.pid])[grower.pid]
        assert again.pss_bytes == first.pss_bytes
        grow(grower, 50 * MB)
        grown = meter.look(0.2, [grower.pid])[grower.pid]
        assert grown.pss_bytes > first.pss_bytes + 40 * MB
        grow(grower, 1)
        assert meter.look(0.3, [grower.pid])[grower.pid] == grown
    assert meter.look(0.4, [grower.pid]) == {}


def test_a_kind_is_reserved_as_declared_else_as_measured_else_twice_as_guessed() -> None:
    ledger, budget = Ledger(), Budget(10**10, 4)
    assert ledger.reservation("f00", "m:A", None, budget) == (2 * MEMORY_GUESS, False)
    small = ledger.reservation("f00", "m:A", None, Budget(400 * MB, 1))
    assert small.memory_bytes == 100 * MB, "a small machine can try it too"
    assert ledger.reservation("f00", "m:A", None, Budget(0, 1)).memory_bytes > 0, "but not for nothing"
    assert ledger.reservation("f00", "m:A", 7, budget) == (7, True)
    ledger.observe("f00", "m:A", 100, 1.0)
    ledger.observe("f00", "m:A", 60, 1.0)
    size, known = ledger.reservation("f00", "m:A", None, budget)
    assert known
    assert 98 <= size <= 100, "what it needed once"
    ledger.observe("f00", "m:A", 60, 3600.0)
    assert ledger.reservation("f00", "m:A", None, budget).memory_bytes == 60, "is forgotten in time"
    for size in (10, 20, 30):
        ledger.observe(f"f{size}", "m:B", size * MB, 1.0)
    assert ledger.reservation("f99", "m:C", None, budget) == (60 * MB, False), "what most of them need"
    ledger.outgrew("f00", 90 * MB)
    assert ledger.reservation("f00", "m:A", 7, budget) == (90 * MB, True), (
        "no start takes less than one has taken, whatever is declared"
    )
    ledger.keep(frozenset())
    assert not ledger.reservation("f00", "m:A", None, budget).known


def test_a_guess_is_what_others_of_the_class_need_and_a_large_one_is_not_doubled() -> None:
    ledger, budget = Ledger(), Budget(1000 * MB, 4)
    ledger.observe("f00", "m:A", 40 * MB, 1.0)
    assert ledger.reservation("f01", "m:A", None, budget) == (80 * MB, False)
    ledger.observe("f00", "m:A", 600 * MB, 1.0)
    assert ledger.reservation("f01", "m:A", None, budget) == (600 * MB, False)
    assert ledger.reservation("f01", "m:B", None, budget) == (250 * MB, False), "of another class nothing is known"


@pytest.mark.parametrize(
    ("capacity", "memory_bytes"),
    [
        (Capacity(2, 1000), 1000),
        (Capacity(2, 1000, available_bytes=500), 650),
        (Capacity(2, 1000, available_bytes=950), 1000),
        (Capacity(2, 1000, available_bytes=0), 200),
    ],
    ids=["declared", "others use 300", "others use little", "others use the rest"],
)
def test_the_budget_is_what_replicas_use_and_what_nobody_uses(capacity, memory_bytes) -> None:
    assert budget_of(capacity, 200) == Budget(memory_bytes, 2)


def test_our_own_processes_are_part_of_a_declared_budget() -> None:
    assert budget_of(Capacity(2, 100), 0, 150).memory_bytes == 0
    assert budget_of(Capacity(2, 1000), 200, 150).memory_bytes == 850
    found = Capacity(2, 1000, available_bytes=500)
    assert budget_of(found, 200, 150) == budget_of(found, 200), "nobody has counted it as free"


def test_devices_are_budgeted() -> None:
    assert budget_of(Capacity(2, None, ("0", "1")), 0).gpus == 2


def test_cpu_is_known_as_finely_as_the_process_knows_it_itself() -> None:
    def own(counter: subprocess.Popen[str]) -> float:
        print("how much?", file=counter.stdin, flush=True)
        return float(counter.stdout.readline())

    with process(COUNTS) as counter:
        before_s = own(counter)
        cpu_s, _ = cpu((counter.pid,))
        assert before_s <= cpu_s <= own(counter)


def test_a_process_that_is_gone_has_no_cpu() -> None:
    with process(COUNTS) as counter:
        assert cpu((counter.pid,))[0] > 0
    assert cpu((counter.pid,)) == (0.0, 0.0)
