"""What a plan expects where replicas share too few cores, beside a simulation of exactly that."""

import heapq
import math
import random

import pytest

from muleteer.control.capacity_plan import GATEWAY_CPU_S, Question, plan
from muleteer.control.queueing import service_of
from muleteer.control.sizing import Workload

MEAN_S = 0.020


def simulated(replicas, cores, rate, share, services):
    """Responses of Poisson arrivals at `replicas` (one line, FIFO) whose calls compute for `share` of their service on
    `cores` that are shared evenly, then wait for the rest of it.
    """
    dice = random.Random(5)
    now, next_call, line, responses = 0.0, 0.0, [], []
    computing, waiting = {}, []  # began → CPU seconds left; (end, began, …)
    calls = iter(services)
    rest = {}
    free = replicas
    arrivals = len(services)
    while arrivals or computing or waiting or line:
        speed = min(1.0, cores / len(computing)) if computing else 1.0
        done_s = now + min(computing.values()) / speed if computing else math.inf
        woken_s = waiting[0][0] if waiting else math.inf
        then = min(done_s, woken_s, next_call if arrivals else math.inf)
        computing = {began: left - (then - now) * speed for began, left in computing.items()}
        now = then
        if arrivals and then == next_call:
            line.append((now, next(calls)))
            arrivals -= 1
            next_call = now + dice.expovariate(rate)
        elif then == woken_s:
            responses.append(now - heapq.heappop(waiting)[1])
            free += 1
        else:
            began = min(computing, key=computing.get)
            del computing[began]
            heapq.heappush(waiting, (now + rest.pop(began), began))
        while free and line:
            began, service = line.pop(0)
            computing[began], rest[began] = service * share, service * (1 - share)
            free -= 1
    responses.sort()
    return responses[len(responses) // 2], responses[int(0.99 * len(responses))]


@pytest.mark.parametrize(
    ("share", "cores", "rate"),
    [(0.95, 4, 100), (0.95, 4, 150), (0.5, 2, 120), (0.5, 2, 160), (0.2, 1, 150), (0.2, 1, 200)],
)
def test_what_is_expected_is_near_what_happens_and_not_far_below(share, cores, rate):
    dice = random.Random(7)
    services = [dice.gammavariate(16, MEAN_S / 16) for _ in range(20_000)]
    workload = Workload(service=service_of(services), cpu_s=share * MEAN_S - GATEWAY_CPU_S, memory_bytes=1)
    found = plan(Question(rate, 0.2, cores=cores), workload)
    assert found.problems == ()
    p50_s, p99_s = simulated(found.replicas, cores, rate, share, services)
    assert 0.9 < found.p50_s / p50_s < 1.6
    assert 0.9 < found.p99_s / p99_s < 1.75
    assert p99_s <= 0.2
