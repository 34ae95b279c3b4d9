"""An incremental rollout: which share the new version gets, and when that stops. Pure; time and measurements come in.

A rollout moves an endpoint's traffic from one backend to another in steps. `step()` is called on every tick with
running totals of both versions; only what came in since the step began is compared, for both versions alike.

Two questions are asked, both by the exact tests of `control.exact`, valid for any distribution and any count:
- errors: is the new version's error rate above the old one's by more than `max_error_increase` (`increase_p`)?
- latency: do its successful answers take more than `max_p99_ratio` times the old one's p99 more often than the old
  one's exceed that p99 (`exceedance_p`)?

False alarms: the chance that a version which is not worse by more than the margins is rolled back is at most
`false_alarms` (5 %) for a whole rollout, however long it lasts. That budget is shared equally by the gated steps and
the two questions; within a step the k-th look may use 6/(pi k)^2 of its share, which sums to the share over all k.
Looks come when the sample has grown by a quarter: early harm is seen early, and few looks are wasted.

No alarm is not yet a reason to go on: while the same tests leave a chance of under DOUBT that the new version is within
the margins, the next step waits for more requests, until they clear it or convict it. That rolls nothing back, so
it costs nothing of the budget.

The table TRANSITIONS holds the phases; a missing entry is an illegal move.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, NamedTuple

import msgspec

from muleteer.base.errors import SpecError
from muleteer.control.exact import exceedance_p, increase_p
from muleteer.telemetry.histogram import Distribution

Phase = Literal["pending", "shadowing", "stepping", "paused", "completed", "rolled_back", "aborted"]
Event = Literal["shadow", "start", "advance", "complete", "harm", "pause", "resume", "abort"]

_END: dict[Event, Phase] = {"harm": "rolled_back", "abort": "aborted", "pause": "paused"}
TRANSITIONS: Final[dict[Phase, dict[Event, Phase]]] = {
    "pending": {"shadow": "shadowing", "start": "stepping", **_END},
    "shadowing": {"start": "stepping", **_END},
    "stepping": {"advance": "stepping", "complete": "completed", **_END},
    # `resume` leads back to where it was paused; harm is watched for here too: a pause holds the share, not the guard
    "paused": {"resume": "stepping", "harm": "rolled_back", "abort": "aborted"},
    "completed": {},
    "rolled_back": {},
    "aborted": {},
}
LOOK_FIRST = 20  # requests of the new version; fewer can show nothing at these error rates
LOOK_GROWTH = 1.25
DOUBT = 0.1  # a version within the margins waits longer at one gate in ten or fewer
QUANTILE = 0.99


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was asked for.

    Attributes:
        steps: percent of the traffic for the new version, rising, the last 100.
        interval_s: least time at each step.
        max_error_increase: share (0.005 is 0.5 %) by which the error rate may be higher.
        max_p99_ratio: factor by which the p99 may be higher.
        min_requests: of each version at a step, before the next step.
        shadow_first: compare copies of the traffic before the first step: errors only, copies have the lowest priority.
        shadow_percent: share of the traffic that is copied then.
        false_alarms: bound on the chance to roll back a version that is within the margins.
    """

    steps: tuple[float, ...] = (1.0, 10.0, 50.0, 100.0)
    interval_s: float = 60.0
    max_error_increase: float = 0.005
    max_p99_ratio: float = 1.2
    min_requests: int = 200
    shadow_first: bool = False
    shadow_percent: float = 10.0
    false_alarms: float = 0.05

    def check(self) -> None:
        """Raises SpecError that says what may be asked for."""
        rising = all(low < high for low, high in zip((0.0, *self.steps), self.steps, strict=False))
        if not self.steps or not rising or self.steps[-1] != 100:
            raise SpecError(f"steps {','.join(f'{s:g}' for s in self.steps)}: must rise from above 0 and end with 100")
        if not (0 < self.interval_s <= 7 * 86400):
            raise SpecError("interval: more than 0 and at most 7 days")
        if not (0 <= self.max_error_increase < 1 and 1 <= self.max_p99_ratio <= 100):
            raise SpecError("max-error-increase: from 0 to under 100 %; max-p99-ratio: from 1 to 100")
        if not (1 <= self.min_requests <= 10**9 and 0 < self.shadow_percent <= 100 and 0 < self.false_alarms < 1):
            raise SpecError("min-requests: at least 1; shadow percent: to 100; false alarms: between 0 and 1")

    def gates(self) -> int:
        """Steps at which both versions can be compared, shadowing included."""
        return max(1, sum(step < 100 for step in self.steps) + self.shadow_first)


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one version did: `requests` answered, `errors` among them (its own fault: 5xx), latency of the others."""

    requests: int = 0
    errors: int = 0
    latency: Distribution = Distribution()

    def since(self, base: Window) -> Window:
        """What came after `base`; everything, where the counters have begun again."""
        if self.requests < base.requests or self.errors < base.errors:
            return self
        try:
            latency = self.latency.minus(base.latency)
        except ValueError:
            return self
        return Window(self.requests - base.requests, self.errors - base.errors, latency)


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole state; as JSON it survives the controller.

    Attributes:
        before: the endpoint's traffic when the rollout began; what a rollback restores.
        index: which of the policy's steps; -1 before the first.
        since_s: monotonic seconds when the step began.
        base_old, base_new: the running totals when the step began.
        looks, looked_at: tests made at this step, and the requests of the new version at the last.
        reason: why it is in this phase, in words and numbers.
        paused_from: the phase to resume.
    """

    endpoint: str
    old: str
    new: str
    before: dict[str, float]
    policy: Policy
    phase: Phase = "pending"
    index: int = -1
    since_s: float = 0.0
    base_old: Window = Window()
    base_new: Window = Window()
    looks: int = 0
    looked_at: int = 0
    reason: str = "waiting for the new version to be ready"
    paused_from: Phase | None = None

    def share(self) -> float:
        """Percent of the traffic that the new version gets now."""
        return self.policy.steps[self.index] if self.index >= 0 else 0.0

    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return not TRANSITIONS[self.phase]


class Decision(msgspec.Struct, frozen=True):
    """What to do now.

    Attributes:
        event: the move that was made, or `wait`.
        reason: why, in words and numbers.
        traffic: the weights to set, or None to leave them.
        shadow_percent: of traffic to copy to the new version from now on; None to leave it.
    """

    event: Event | Literal["wait"]
    reason: str
    traffic: dict[str, float] | None = None
    shadow_percent: float | None = None


class _Seen(NamedTuple):
    """One tick's time and totals."""

    now: float
    old: Window
    new: Window


def begin(endpoint: str, traffic: dict[str, float], new: str, policy: Policy) -> Rollout:
    """A rollout of `endpoint` to `new`, in phase pending. Raises SpecError."""
    policy.check()
    serving = [name for name, weight in traffic.items() if weight > 0 and name != new]
    if not serving:
        raise SpecError(f"endpoint {endpoint} already sends everything to {new}")
    if len(serving) > 1 or traffic.get(new, 0) > 0:
        raise SpecError(
            f"endpoint {endpoint} is shared by several backends: a rollout compares one with one; set its traffic first"
        )
    return Rollout(endpoint=endpoint, old=serving[0], new=new, before=dict(traffic), policy=policy)


def step(rollout: Rollout, now: float, old: Window, new: Window, *, ready: bool = True) -> tuple[Rollout, Decision]:
    """What a tick changes.

    `now`: monotonic seconds; if they went back (the machine was started again) the interval begins anew. `old`, `new`:
    running totals of both versions, which go on over a new gateway; while shadowing, `new` counts the copies. `ready`:
    whether the new version can serve; looked at only before the first step.
    """
    if rollout.ended():
        return rollout, Decision("wait", rollout.reason)
    if now < rollout.since_s:
        rollout = msgspec.structs.replace(rollout, since_s=now)
    if rollout.phase == "pending":
        if not ready:
            return rollout, Decision("wait", f"waiting for {rollout.new} to be ready")
        event: Event = "shadow" if rollout.policy.shadow_first else "start"
        return _begin_gate(rollout, event, _Seen(now, old, new), "it is ready")
    if rollout.paused_from == "pending":
        return rollout, Decision("wait", rollout.reason)
    return _gate(rollout, _Seen(now, old, new))


def pause(rollout: Rollout) -> tuple[Rollout, Decision]:
    """Hold the share. Harm still rolls back."""
    return _move(rollout, "pause", "paused by hand", changes={"paused_from": rollout.phase})


def resume(rollout: Rollout, now: float, old: Window, new: Window) -> tuple[Rollout, Decision]:
    """Go on where it was paused; the step's interval begins anew, and its looks go on counting."""
    resumed, decision = _move(rollout, "resume", "resumed by hand", changes=_fresh(_Seen(now, old, new)))
    phase = rollout.paused_from or resumed.phase
    return msgspec.structs.replace(resumed, phase=phase, paused_from=None, looks=rollout.looks), decision


def abort(rollout: Rollout) -> tuple[Rollout, Decision]:
    """Back to the old version at once."""
    return _move(rollout, "abort", "aborted by hand", traffic=rollout.before, shadow_percent=0.0)


def fail(rollout: Rollout, reason: str) -> tuple[Rollout, Decision]:
    """The new version must not serve, or cannot (its replicas do not start): back to the old version at once."""
    return _move(rollout, "harm", reason, traffic=rollout.before, shadow_percent=0.0)


def _move(
    rollout: Rollout,
    event: Event,
    reason: str,
    *,
    traffic: dict[str, float] | None = None,
    shadow_percent: float | None = None,
    changes: dict[str, Any] | None = None,
) -> tuple[Rollout, Decision]:
    phase = TRANSITIONS[rollout.phase].get(event)
    if phase is None:
        raise SpecError(f"the rollout of {rollout.endpoint} is {rollout.phase}: {event} is not possible")
    moved = msgspec.structs.replace(rollout, phase=phase, reason=reason, **(changes or {}))
    return moved, Decision(event, reason, traffic, shadow_percent)


def _fresh(seen: _Seen) -> dict[str, Any]:
    """New windows and looks."""
    return {"since_s": seen.now, "base_old": seen.old, "base_new": seen.new, "looks": 0, "looked_at": 0}


def _begin_gate(rollout: Rollout, event: Event, seen: _Seen, why: str) -> tuple[Rollout, Decision]:
    """Into shadowing or the next step. The last step is the end: nothing is left to compare with."""
    policy, changes = rollout.policy, _fresh(seen)
    if event == "shadow":
        percent = policy.shadow_percent
        return _move(rollout, event, f"{why}: copying {percent:g} % to it", shadow_percent=percent, changes=changes)
    changes["index"] = rollout.index + 1
    share = policy.steps[changes["index"]]
    if share == 100 and rollout.phase == "stepping":
        event = "complete"
    traffic = {**dict.fromkeys(rollout.before, 0.0), rollout.old: 100 - share, rollout.new: share}
    reason = f"{why}: {share:g} % to {rollout.new}"
    return _move(rollout, event, reason, traffic=traffic, shadow_percent=0.0, changes=changes)


def _gate(rollout: Rollout, seen: _Seen) -> tuple[Rollout, Decision]:
    """Compare if it is time to; harm ends it, enough samples in enough time lead on."""
    policy = rollout.policy
    if rollout.share() == 100 and rollout.phase == "stepping":  # a policy of the single step 100
        return _move(rollout, "complete", f"100 % to {rollout.new}")
    old, new = seen.old.since(rollout.base_old), seen.new.since(rollout.base_new)
    waited = seen.now - rollout.since_s
    enough = min(old.requests, new.requests) >= policy.min_requests
    done = enough and waited >= policy.interval_s and rollout.phase != "paused"
    due = new.requests >= max(LOOK_FIRST, rollout.looked_at * LOOK_GROWTH)
    worst = min(_suspicions(rollout, old, new), key=lambda each: each.chance) if done or due else _CLEAR
    if due:
        rollout = msgspec.structs.replace(rollout, looks=rollout.looks + 1, looked_at=new.requests)
        alpha = policy.false_alarms / policy.gates() / 2 * 6 / (math.pi * rollout.looks) ** 2
        if worst.chance <= alpha:
            return fail(rollout, f"{worst.text} (chance of error under {alpha:.1g})")
    if rollout.phase == "paused":
        return rollout, Decision("wait", rollout.reason)
    if done and worst.chance < DOUBT:
        return rollout, Decision("wait", f"{worst.text}: not certain, waiting for more requests")
    if done:
        event: Event = "start" if rollout.phase == "shadowing" else "advance"
        return _begin_gate(rollout, event, seen, _comparison(rollout, old, new))
    missing = [
        f"{window.requests} of {policy.min_requests} requests of {name}"
        for name, window in ((rollout.old, old), (rollout.new, new))
        if window.requests < policy.min_requests
    ]
    if waited < policy.interval_s:
        missing.insert(0, f"{policy.interval_s - waited:.0f} s left")
    return rollout, Decision("wait", f"at {_where(rollout)}: {', '.join(missing)}")


def _shadowing(rollout: Rollout) -> bool:
    return "shadowing" in (rollout.phase, rollout.paused_from)


def _where(rollout: Rollout) -> str:
    return f"{rollout.policy.shadow_percent:g} % copied" if _shadowing(rollout) else f"{rollout.share():g} %"


class _Suspicion(NamedTuple):
    """What looks worse beyond the margins, and at most the chance that a version within them looks so."""

    chance: float
    text: str


_CLEAR = _Suspicion(1.0, "")


def _suspicions(rollout: Rollout, old: Window, new: Window) -> list[_Suspicion]:
    """One for each question that can be asked now."""
    policy = rollout.policy
    margin = policy.max_error_increase
    chance = increase_p(new.errors, new.requests, old.errors, old.requests, margin)
    text = (
        f"at {_where(rollout)} {new.errors} of {new.requests} requests failed ({_percent(new)}), of {rollout.old} "
        f"{old.errors} of {old.requests} ({_percent(old)}): more than the {margin * 100:g} points that are allowed"
    )
    found = [_Suspicion(chance, text)]
    p99 = None if _shadowing(rollout) else old.latency.quantile_at_most(QUANTILE)
    if p99 is not None:
        slower, among = new.latency.count_above(p99 * policy.max_p99_ratio), new.latency.total()
        # old values above that bucket, and one in it: the threshold is at least the rank-th largest old value
        rank = old.latency.count_above(p99) + 1
        text = (
            f"at {_where(rollout)} {slower} of {among} answers took more than {policy.max_p99_ratio:g} times the p99 "
            f"of {rollout.old} ({p99 * 1e3:.3g} ms), about {among * (1 - QUANTILE):.0f} are expected"
        )
        found.append(_Suspicion(exceedance_p(slower, among, rank, old.latency.total()), text))
    return found


def _percent(window: Window) -> str:
    return f"{window.errors / window.requests * 100:.2f} %" if window.requests else "none seen"


def _comparison(rollout: Rollout, old: Window, new: Window) -> str:
    """Both versions side by side, for the reason of an advance."""
    parts = [f"errors {_percent(new)} against {_percent(old)}"]
    p99s = new.latency.quantile(QUANTILE), old.latency.quantile(QUANTILE)
    if rollout.phase != "shadowing" and p99s[0] is not None and p99s[1] is not None:
        parts.append(f"p99 {p99s[0] * 1e3:.3g} ms against {p99s[1] * 1e3:.3g} ms")
    return f"{', '.join(parts)} in {new.requests} and {old.requests} requests"
