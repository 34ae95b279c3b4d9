"""How long calls wait in front of c servers, by stated approximations. Pure; must not know replicas, budgets or clocks.

Waiting, of calls that come at rate λ to c servers with mean service S, u = λS/c < 1:

- the chance to wait at all is Erlang's C (Erlang 1917), exact for Poisson arrivals and exponential services;
- the mean wait is that of M/M/c times (c_a² + c_s²)/2, where c² are the squared coefficients of variation
  (Allen-Cunneen: A. O. Allen, *Probability, Statistics, and Queueing Theory*, 1990, §5.3; also formula 2.14 of W.
  Whitt, "Approximations for the GI/G/m queue", Production and Operations Management 2, 1993);
- the tail is exponential with that mean: P(W > t) = C·exp(-θt), θ = 2c(1-u)/(S·(c_a² + c_s²)).

Valid where services are independent of one another and not heavy-tailed (c_s² up to about 4: exact for M/M/c, within
about 10 % of the mean wait for 0.25 ≤ c_s² ≤ 2, u ≥ 0.5), where the rate holds for many services, and where nobody is
refused. With c_s² < 1 and few calls waiting the tail is overestimated, with c_s² > 1 underestimated. Bursts that are
longer than a service enter through c_a² as the index of dispersion of counts (K. W. Fendick, W. Whitt, Proc. IEEE 77,
1989).

The response is W + S with W independent of S (FIFO), summed over the measured services, so a service of any shape is as
measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec

from muleteer.telemetry.histogram import GAMMA, Distribution

VARIATION_MIN = 0.05  # c_a² + c_s²: clockwork arrivals at a clockwork model still meet the scheduler's jitter


class Service(msgspec.Struct, frozen=True):
    """How long a call holds a server: `points` of (seconds, probability), ascending, probabilities summing to 1."""

    points: tuple[tuple[float, float], ...]

    @property
    def mean_s(self) -> float:
        """Seconds."""
        return sum(seconds * share for seconds, share in self.points)

    @property
    def scv(self) -> float:
        """Squared coefficient of variation, c_s²."""
        mean = self.mean_s
        return sum(share * (seconds - mean) ** 2 for seconds, share in self.points) / mean**2 if mean > 0 else 0.0

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0..1) of the services do not exceed."""
        left = share - 1e-9
        for seconds, part in self.points:
            left -= part
            if left <= 0:
                return seconds
        return self.points[-1][0]

    def scaled(self, factor: float) -> Service:
        """Every service `factor` times as long."""
        return Service(tuple((seconds * factor, share) for seconds, share in self.points))


def service_of(values: Distribution | Iterable[float]) -> Service:
    """Measured services, few enough to reckon with. Raises ValueError of no values."""
    if isinstance(values, Distribution):
        middle = 2 * GAMMA / (1 + GAMMA) * 1e-6
        return service_of_weights((GAMMA**bucket * middle, count) for bucket, count in values.counts.items())
    return service_of_weights((value, 1) for value in values)


def service_of_weights(pairs: Iterable[tuple[float, float]]) -> Service:
    """The same of (seconds, weight) in any order.

    Neighbours are merged: 24 points for the fast 90 %, then finer and finer, since the slowest decide about a p99.
    """
    ordered = sorted(pairs)
    if not ordered:
        raise ValueError("no service was measured")
    total = sum(weight for _, weight in ordered)
    points: list[tuple[float, float]] = []
    sum_s, part, above = 0.0, 0.0, total
    for index, (seconds, weight) in enumerate(ordered, 1):
        sum_s += seconds * weight
        part += weight
        above -= weight
        least = 0.0375 if above > total / 10 else 0.005 if above > total / 100 else 0.001
        if part >= least * total or index == len(ordered):
            points.append((sum_s / part, part / total))
            sum_s, part = 0.0, 0.0
    return Service(tuple(points))


def erlang_b(servers: int, offered: float) -> float:
    """The chance that all of `servers` are busy where nobody waits; `offered` = λS. By the usual recursion."""
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    return blocked


def erlang_c(servers: int, offered: float) -> float:
    """The chance that a call must wait in M/M/c; 1 where u ≥ 1."""
    if offered >= servers:
        return 1.0
    blocked = erlang_b(servers, offered)
    return blocked / (1 - offered / servers * (1 - blocked))


class Wait(msgspec.Struct, frozen=True):
    """The wait of a stable queue: P(W > t) = `chance`·exp(-`decay_per_s`·t)."""

    chance: float
    decay_per_s: float

    @property
    def mean_s(self) -> float:
        """Mean over all calls, those that do not wait included."""
        return self.chance / self.decay_per_s

    def above(self, seconds: float) -> float:
        """P(W > seconds)."""
        return 1.0 if seconds < 0 else self.chance * math.exp(-self.decay_per_s * seconds)

    def quantile(self, share: float) -> float:
        """Seconds that `share` of the calls wait at most."""
        late = 1 - share
        return 0.0 if self.chance <= late else math.log(self.chance / late) / self.decay_per_s


def wait_of(servers: int, rate: float, service: Service, arrival_scv: float = 1.0) -> Wait | None:
    """The wait at `rate` calls/s in front of `servers`; None where it would grow without end (u ≥ 1)."""
    mean = service.mean_s
    offered = rate * mean
    if offered >= servers:
        return None
    if offered <= 0:
        return Wait(0.0, 1.0)
    variation = max(VARIATION_MIN, arrival_scv + service.scv)
    return Wait(erlang_c(servers, offered), 2 * (servers - offered) / (mean * variation))


def response_above(above: Callable[[float], float], service: Service, seconds: float) -> float:
    """P(W + S > seconds), where `above` is P(W > t). Never above 1, though rounded shares may add up to more."""
    return min(1.0, sum(share * above(seconds - served) for served, share in service.points))


def response_quantile(above: Callable[[float], float], service: Service, share: float) -> float:
    """Seconds that `share` of the responses W + S do not exceed, to 0.1 %; inf if none is found within a day."""
    late = 1 - share + 1e-12
    low, high = 0.0, max(service.quantile(1.0), 1e-6)
    while response_above(above, service, high) > late:
        low, high = high, high * 2
        if high > 86400:
            return math.inf
    while high - low > high / 1000:
        middle = (low + high) / 2
        low, high = (middle, high) if response_above(above, service, middle) > late else (low, middle)
    return high
