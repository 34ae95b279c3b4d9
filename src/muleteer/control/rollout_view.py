"""A rollout as status, API and `--watch` show it. Pure; must not know how it is run."""

from __future__ import annotations

import msgspec

from muleteer.control.rollout import Phase, Rollout, Window


class WindowView(msgspec.Struct, frozen=True):
    """What one version did since the step began. Seconds; None where nothing was measured."""

    requests: int
    errors: int
    p50_s: float | None
    p99_s: float | None


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout for people and programs.

    Attributes:
        share: percent that the new version gets now.
        step: which of `steps`, from 1; 0 before the first.
        waited_s: since the step began; `interval_s` is the least.
        windows: of both versions by name; while shadowing those of the new one are of its copies.
    """

    endpoint: str
    old: str
    new: str
    phase: Phase
    ended: bool
    reason: str
    share: float
    step: int
    steps: tuple[float, ...]
    waited_s: float
    interval_s: float
    min_requests: int
    windows: dict[str, WindowView]


def view(rollout: Rollout, old: Window, new: Window, reason: str, now: float) -> RolloutView:
    """`old` and `new`: what came in since the step began; `reason`: the last words said; `now`: monotonic seconds."""
    began = rollout.since_s if rollout.phase != "pending" else now
    return RolloutView(
        endpoint=rollout.endpoint,
        old=rollout.old,
        new=rollout.new,
        phase=rollout.phase,
        ended=rollout.ended(),
        reason=reason,
        share=rollout.share(),
        step=rollout.index + 1,
        steps=rollout.policy.steps,
        waited_s=round(max(0.0, now - began), 3),
        interval_s=rollout.policy.interval_s,
        min_requests=rollout.policy.min_requests,
        windows={rollout.old: _window_view(old), rollout.new: _window_view(new)},
    )


def _window_view(window: Window) -> WindowView:
    p50, p99 = (window.latency.quantile(share) for share in (0.5, 0.99))
    return WindowView(window.requests, window.errors, p50, p99)
