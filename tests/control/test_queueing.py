"""The approximations against exact values and against the simulation that knows no formula."""

import math
import random

import pytest

from muleteer.control.queueing import Service, erlang_b, erlang_c, response_quantile, service_of, wait_of
from muleteer.telemetry.histogram import Histogram
from muleteer.testing.arrivals import lognormal, poisson, steady
from muleteer.testing.simulation import Backend, run


class Fixed:
    def __init__(self, replicas):
        self.replicas = replicas

    def decide(self, _tick):
        return self.replicas


def test_erlang_by_known_values():
    assert erlang_b(1, 1.0) == pytest.approx(1 / 2)
    assert erlang_b(2, 1.0) == pytest.approx(1 / 5)
    assert erlang_c(1, 0.7) == pytest.approx(0.7)  # M/M/1 waits with the chance to be busy
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 10.0) == 1.0
    assert 0 < erlang_c(1000, 900.0) < 0.01


def test_a_single_exponential_server_is_exact():
    """M/M/1: the response is exponential with rate µ - λ."""
    dice = random.Random(1)
    service = service_of([dice.expovariate(10.0) for _ in range(200_000)])
    wait = wait_of(1, 7.0, service)
    assert wait.mean_s == pytest.approx(0.7 / 3, rel=0.03)
    assert response_quantile(wait.above, service, 0.99) == pytest.approx(math.log(100) / 3, rel=0.05)


def test_without_room_there_is_no_wait_to_speak_of():
    service = Service(((0.1, 1.0),))
    assert wait_of(4, 40.0, service) is None
    assert wait_of(4, 0.0, service).above(0.0) == 0.0


def test_points_keep_mean_spread_and_tail():
    dice = random.Random(2)
    values = [dice.lognormvariate(-4, 0.8) for _ in range(50_000)]
    exact = sorted(values)
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    for service in (service_of(values), service_of(histogram.statistics())):
        assert len(service.points) <= 60
        assert sum(share for _, share in service.points) == pytest.approx(1)
        assert service.mean_s == pytest.approx(sum(values) / len(values), rel=0.03)
        assert service.quantile(0.99) == pytest.approx(exact[49_500], rel=0.08)
        assert service.scv == pytest.approx(math.exp(0.64) - 1, rel=0.1)
    with pytest.raises(ValueError, match="no service"):
        service_of([])


@pytest.mark.parametrize("scv", [0.0, 0.25, 1.0, 2.0])
@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.7), (4, 0.9), (16, 0.9)])
def test_the_p99_is_what_a_simulation_finds(servers, load, scv):
    """Within 25 %: half of what a replica more or less changes at such loads."""
    dice = random.Random(3)
    rate = load * servers / 0.02
    times = poisson(steady(rate), rate, 60_000 / rate, dice)
    draw = lognormal(0.02, scv, dice)
    services = [draw() for _ in times]
    course = run(times, services, Fixed(servers), 1.0, Backend(deadline_s=1e9, initial=servers, tick_s=1e6))
    seen = sorted(call.response_s for call in course.calls)[int(0.99 * len(times))]
    service = service_of(services)
    assert response_quantile(wait_of(servers, rate, service).above, service, 0.99) == pytest.approx(seen, rel=0.25)
