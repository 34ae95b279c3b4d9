"""Ways to choose the number of replicas, as the simulation asks them. Must not know what they are compared on."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from muleteer.control.queueing import service_of
from muleteer.control.scaling import Bounds, Observed, Room, Sizer, Sizing
from muleteer.control.sizing import Workload
from muleteer.testing.simulation import Tick


@dataclass(frozen=True)
class Fixed:
    """A number that somebody chose."""

    replicas: int

    def decide(self, _tick: Tick) -> int:
        return self.replicas


@dataclass
class RayServe:
    """Ray Serve's rule: as many replicas as bring the ongoing calls of each to the target.

    As published in python/ray/serve/autoscaling_policy.py: desired = current · (ongoing / (target · current)),
    rounded up, where ongoing, queued and running together, is a mean over the look-back; taken once it has pointed
    the same way for the delay. The defaults are those of `AutoscalingConfig`, factors 1.
    """

    replicas_max: int
    target_ongoing: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_s: float = 30.0
    _ongoing: deque[tuple[float, int]] = field(default_factory=deque)
    _target: int = 1
    _since: float = 0.0
    _direction: int = 0

    def decide(self, tick: Tick) -> int:
        self._ongoing.append((tick.now, tick.queued + tick.running))
        while self._ongoing[0][0] < tick.now - self.look_back_s:
            self._ongoing.popleft()
        ongoing = sum(count for _, count in self._ongoing) / len(self._ongoing)
        desired = min(self.replicas_max, max(1, math.ceil(ongoing / self.target_ongoing)))
        direction = (desired > self._target) - (desired < self._target)
        if direction != self._direction:
            self._direction, self._since = direction, tick.now
        delay_s = self.upscale_delay_s if direction > 0 else self.downscale_delay_s
        if direction and tick.now - self._since >= delay_s:
            self._target, self._direction = desired, 0
        return self._target


class Ours:
    """`control.scaling`, shown what the controller is shown: services are measured, the start-up time is known."""

    def __init__(self, target_s: float, startup_s: float, replicas_max: int) -> None:
        self.sizer = Sizer(target_s, Bounds(1, replicas_max))
        self.startup_s = startup_s
        self.services: deque[float] = deque(maxlen=1000)
        self.workload: Workload | None = None
        self.fresh = 0
        self.sizing: Sizing | None = None

    def decide(self, tick: Tick) -> int:
        self.services.extend(tick.services)
        self.fresh += len(tick.services)
        if len(self.services) >= 50 and (self.workload is None or self.fresh >= 200):
            self.workload, self.fresh = Workload(service=service_of(self.services), startup_s=self.startup_s), 0
        seen = Observed(tick.now, tick.seconds, tick.arrivals, tick.queued, tick.ready, tick.starting_s)
        self.sizing = self.sizer.step(seen, self.workload, Room())
        return self.sizing.replicas
