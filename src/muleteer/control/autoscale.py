"""How many replicas each backend should have, from what the gateways and replicas tell. Must not know sockets, engines
or what else wants the machine; time is an argument.

Only what changes costs: a backend without calls that has as few replicas as it may is not looked at until somebody
calls, and of many with calls each comes round (STEPS_MAX in one tick, a millisecond each).

A controller that comes back keeps the number that runs: it counts as wanted just now, and by the time that the hold
ends the load was measured again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from muleteer.base.limits import SAMPLES_MIN, SIZING_STEPS_MAX
from muleteer.control.measure import Cpu, Load, Measure
from muleteer.control.queueing import Service
from muleteer.control.scaling import UNKNOWN_START_S, Bounds, Limit, Observed, Room, Sizer, Sizing
from muleteer.control.sizing import Workload, default_target_s
from muleteer.control.startup import StartUps
from muleteer.spec.fingerprint import fingerprint
from muleteer.spec.settings import BackendSpec
from muleteer.spec.units import format_seconds

UNMEASURED_TARGET_S = 1.0
"""Aimed at while nothing is known of a backend without an slo; nothing is reckoned from it."""
WAITING_KEPT_S = 2.0  # a gateway repeats itself every second
RESTED_S = 5.0
"""Calls after such a silence are no part of it: a rate is of what came since."""
UNKEPT_STEPS = 10  # decisions, some seconds
_MISSING = {
    "target": "is out of reach with any number of replicas",
    "max": "needs more replicas than were declared",
    "cpu": "needs more cores than there are",
    "memory": "needs more memory than there is",
}
_LOADS = dict[str, Load]


class Present(NamedTuple):
    """Replicas of one backend: how many are ready, how many failed; for how many seconds each of the others starts."""

    ready: int
    starting_s: tuple[float, ...] = ()
    failed: int = 0


class Sized:
    """One backend with an slo, or whose number may vary.

    Attributes:
        wanted: replicas, from now on; of a fixed number that number.
        sizing: the last decision; None before the first.
        workload: what it was taken on.
        target_s: what was aimed at.
        unkept: why the declared target cannot be kept; empty if it can.
    """

    __slots__ = (
        "due_s",
        "fingerprint",
        "missed",
        "sizer",
        "sizing",
        "spec",
        "stepped_s",
        "target_s",
        "unkept",
        "wanted",
        "workload",
    )

    def __init__(self, spec: BackendSpec, now: float) -> None:
        self.spec = spec
        self.fingerprint = fingerprint(spec)
        self.wanted = spec.settings.bounds.min
        self.sizer = Sizer(UNMEASURED_TARGET_S)
        self.sizing: Sizing | None = None
        self.workload: Workload | None = None
        self.target_s: float | None = None
        self.unkept = ""
        self.missed = 0  # decisions that found the target missed, less those that did not
        self.stepped_s = now
        self.due_s = 0.0

    def declare(self, spec: BackendSpec, *, awake: bool) -> None:
        """The same backend, declared anew; while `awake` it may not sleep."""
        settings = spec.settings
        bounds = settings.bounds
        if spec != self.spec:
            self.spec = spec
            self.fingerprint = fingerprint(spec)
        self.sizer.bounds = Bounds(max(bounds.min, min(1, bounds.max) if awake else 0), bounds.max, settings.idle)
        self.wanted = min(max(self.wanted, self.sizer.bounds.min), bounds.max)
        self.due_s = 0.0

    def aim(self, service: Service | None) -> None:
        """What p99 to keep."""
        settings = self.spec.settings
        self.target_s = settings.slo.p99 if settings.slo is not None else None
        if self.target_s is None and service is not None:
            self.target_s = default_target_s(service, settings.timeout)
        if self.target_s is not None:
            self.sizer.target_s = self.target_s


class Autoscaler:
    """All backends of a server.

    Attributes:
        startups: how long starts take.
        cores: that all replicas may use together; None: unknown.
    """

    def __init__(self) -> None:
        self.startups = StartUps()
        self.cores: float | None = None
        self._sized: dict[str, Sized] = {}
        self._measures: dict[str, Measure] = {}
        self._active: dict[str, set[str]] = {}  # gateway → backends with calls when it last told
        self._told_s: dict[str, float] = {}
        self._awake: frozenset[str] = frozenset()
        self._waiting: dict[str, tuple[float, float]] = {}  # since when, and when that was last heard

    # -- what is declared

    def declare(
        self, specs: Iterable[BackendSpec], gone: Iterable[str], present: Callable[[str], int], now: float
    ) -> None:
        """These backends are new or changed, those are gone. `present`: how many replicas one has."""
        for name in gone:
            self._sized.pop(name, None)
            self._measures.pop(name, None)
            self._waiting.pop(name, None)
        for spec in specs:
            settings = spec.settings
            if not settings.elastic and settings.slo is None:
                self._sized.pop(spec.name, None)
                continue
            sized = self._sized.get(spec.name)
            if sized is None:
                sized = self._sized[spec.name] = Sized(spec, now)
                sized.declare(spec, awake=spec.name in self._awake)
                self.keep(spec.name, present(spec.name), now)
            sized.declare(spec, awake=spec.name in self._awake)

    def keep(self, name: str, replicas: int, now: float) -> None:
        """So many run already."""
        sized = self._sized.get(name)
        if sized is not None and replicas:
            sized.wanted = min(max(replicas, sized.sizer.bounds.min), sized.sizer.bounds.max)
            sized.sizer.keep(now, sized.wanted)
            sized.due_s = 0.0

    def keep_awake(self, names: Collection[str]) -> list[str]:
        """These may not sleep for now. Backends whose number changes."""
        before, self._awake = self._awake, frozenset(names)
        changed = []
        for name in before ^ self._awake:
            sized = self._sized.get(name)
            if sized is not None:
                wanted = sized.wanted
                sized.declare(sized.spec, awake=name in self._awake)
                changed += [name] if sized.wanted != wanted else []
        return changed

    # -- what is seen

    def demand(self, names: Iterable[str], now: float) -> list[str]:
        """Calls came for these and nothing serves them. Backends whose number changes."""
        changed = []
        for name in names:
            self._wait(name, now)
            sized = self._sized.get(name)
            if sized is None or not sized.sizer.bounds.max:
                continue
            sized.sizer.keep(now, 1)
            sized.due_s = 0.0  # though no call may ever be counted
            if not sized.wanted:
                sized.wanted = 1
                changed.append(name)
        return changed

    def given_up(self, name: str, now: float) -> None:
        """The last replica of a backend was given up for another: it sleeps, unless somebody waits for it. Otherwise it
        would be started again as soon as there is room, for calls of the past.
        """
        sized = self._sized.get(name)
        if sized is None or sized.sizer.bounds.min or self.waited_s(name, now):
            return
        sized.sizer.sleep()
        sized.wanted = 0

    def take(self, gateway: str, told: Mapping[str, Any], now: float) -> None:
        """One gateway's answer to `load`. Raises msgspec.ValidationError for what cannot be read."""
        loads = msgspec.convert(told.get("backends"), _LOADS)
        epoch = str(told.get("epoch"))
        seconds = now - self._told_s.get(gateway, now)
        self._told_s[gateway] = now
        for name in self._active.get(gateway, set()) - loads.keys():
            if name in self._measures:
                self._measures[name].take(gateway, epoch, None, seconds, now)
        for name, load in loads.items():
            measure = self._measures.get(name)
            if measure is None:
                measure = self._measures[name] = Measure()
            measure.take(gateway, epoch, load, seconds, now)
            if load.queued:
                self._wait(name, now)
        self._active[gateway] = set(loads)

    def take_cpu(self, name: str, used: Mapping[str, Cpu]) -> None:
        """CPU time of a backend's replicas: see `Measure.take_cpu`."""
        if name in self._measures:
            self._measures[name].take_cpu(used)

    # -- what follows

    def tick(self, now: float, present: Callable[[str], Present], memory: Callable[[str], int]) -> list[str]:
        """Decide anew where something may have changed: those longest undecided first. Backends whose number changes.

        `present` and `memory` tell of a backend its replicas, and the bytes that one of them holds.
        """
        due = [sized for name, sized in self._sized.items() if now >= sized.due_s or self._called(name)]
        due.sort(key=lambda sized: sized.stepped_s)
        changed = []
        for sized in due[:SIZING_STEPS_MAX]:
            name = sized.spec.name
            before = sized.wanted
            self._step(sized, now, present(name), memory(name))
            if sized.wanted != before:
                changed.append(name)
        return changed

    @property
    def unkept(self) -> dict[str, str]:
        """Backends whose declared target has not been kept for a while, and why it cannot be."""
        return {name: sized.unkept for name, sized in self._sized.items() if sized.unkept}

    def wanted(self, spec: BackendSpec) -> int:
        """Replicas that a backend should have."""
        sized = self._sized.get(spec.name)
        return spec.settings.bounds.min if sized is None else sized.wanted

    def waited_s(self, name: str, now: float) -> float:
        """For how long calls have been waiting for a backend; 0: none waits."""
        since_s, last_s = self._waiting.get(name, (now, -math.inf))
        return max(1e-3, now - since_s) if now - last_s < WAITING_KEPT_S else 0.0

    def _wait(self, name: str, now: float) -> None:
        since_s, last_s = self._waiting.get(name, (now, now))
        self._waiting[name] = (since_s if now - last_s < WAITING_KEPT_S else now, now)

    def sized(self, name: str) -> Sized | None:
        """None of a backend that has a fixed number and no target."""
        return self._sized.get(name)

    def measure(self, name: str) -> Measure | None:
        """None before its first call."""
        return self._measures.get(name)

    @staticmethod
    def _note_missing(sized: Sized, missing: Limit | None) -> None:
        """What is so for a moment only, because a window was unlucky, is not worth a word."""
        slo = sized.spec.settings.slo
        if slo is None or not sized.spec.settings.bounds.max:
            sized.unkept = ""
            return
        sized.missed = max(-UNKEPT_STEPS, min(UNKEPT_STEPS, sized.missed + (1 if missing is not None else -1)))
        if sized.missed == UNKEPT_STEPS and missing is not None:
            sized.unkept = f"p99 {format_seconds(slo.p99)} {_MISSING[missing]}"
        elif sized.missed == -UNKEPT_STEPS:
            sized.unkept = ""

    def _called(self, name: str) -> bool:
        measure = self._measures.get(name)
        return measure is not None and bool(measure.arrivals or measure.open_calls)

    def _step(self, sized: Sized, now: float, present: Present, memory_bytes: int) -> None:
        spec, settings = sized.spec, sized.spec.settings
        measure = self._measures.get(spec.name)
        start_s = self.startups.expected_s(spec.name, sized.fingerprint) or UNKNOWN_START_S
        workload = None
        arrivals = queued = open_calls = 0
        if measure is not None:
            arrivals, queued, open_calls = measure.taken(), measure.queued, measure.open_calls
            workload = measure.workload(
                concurrency=settings.concurrency,
                expected_s=settings.expected,
                memory_bytes=memory_bytes,
                startup_s=start_s,
            )
        elif settings.expected is not None:
            workload = Workload(
                service=Service(((settings.expected, 1.0),)), concurrency=settings.concurrency, startup_s=start_s
            )
        sized.aim(workload.service if workload is not None else None)
        begun_s = measure.since_s if measure is not None and arrivals else sized.stepped_s
        if begun_s > sized.stepped_s + RESTED_S:
            sized.sizer.rest(begun_s - sized.stepped_s)
        else:
            begun_s = sized.stepped_s
        seconds = now - begun_s
        seen = Observed(
            now=now,
            seconds=seconds,
            arrivals=arrivals,
            queued=queued,
            ready=present.ready,
            starting_s=tuple(max(0.0, start_s - since) for since in present.starting_s),
            running=max(0, open_calls - queued),
        )
        if sized.wanted and not any(present) and not self.waited_s(spec.name, now):
            sized.sizer.sleep()  # it found no room, and those who called are gone
        sized.stepped_s, sized.workload = now, workload
        sized.sizing = sized.sizer.step(seen, workload, Room(self.cores), start_s)
        guessed = settings.expected is None and (measure is None or measure.samples < SAMPLES_MIN)
        self._note_missing(sized, None if guessed else sized.sizing.missing)
        if settings.elastic:
            sized.wanted = sized.sizing.replicas
        resting = not (arrivals or open_calls) and sized.sizing.replicas <= sized.sizer.bounds.min
        sized.due_s = math.inf if resting and not (sized.sizer.rate() or sized.unkept) else now
