"""Operations on rollouts."""

from __future__ import annotations

import msgspec

from muleteer.control.admin.operation import Ask, Control, Operation
from muleteer.control.rollout import Policy, Rollout
from muleteer.control.rollout_view import RolloutView


class RolloutBody(Policy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`to`: the backend that is to get the traffic; the rest: see the policy."""

    to: str


class RolloutChanged(msgspec.Struct, frozen=True):
    """As of any change, and the rollout."""

    revision: int
    changes: list[dict[str, str]]
    text: str
    undo: str
    rollout: RolloutView


class Rollouts(msgspec.Struct, frozen=True):
    """The last of every endpoint that has one."""

    rollouts: list[RolloutView]


def _start(control: Control, ask: Ask) -> RolloutChanged:
    policy = Policy(**{name: getattr(ask.body, name) for name in Policy.__struct_fields__})
    return _answer(control, control.rolling.start(ask.name, ask.body.to, policy, who=ask.who))


def _get(control: Control, ask: Ask) -> RolloutView:
    return control.rolling.view(ask.name)


def _list(control: Control, _ask: Ask) -> Rollouts:
    return Rollouts(control.rolling.views())


def _pause(control: Control, ask: Ask) -> RolloutChanged:
    return _answer(control, control.rolling.pause(ask.name, who=ask.who), undo="resume")


async def _resume(control: Control, ask: Ask) -> RolloutChanged:
    return _answer(control, await control.rolling.resume(ask.name, who=ask.who), undo="pause")


def _abort(control: Control, ask: Ask) -> RolloutChanged:
    return _answer(control, control.rolling.abort(ask.name, who=ask.who), undo="")


def _answer(control: Control, rollout: Rollout, undo: str = "abort") -> RolloutChanged:
    view = control.rolling.view(rollout.endpoint)
    return RolloutChanged(
        revision=control.commands.revision,
        changes=[],
        text=f"rollout of {view.endpoint} from {view.old} to {view.new}, {view.phase}: {view.reason}",
        undo=f"muleteer rollout {undo} {view.endpoint}" if undo else "",
        rollout=view,
    )


_ONE = "/v1/endpoints/{name}/rollout"
OPERATIONS = (
    Operation(
        method="POST",
        path=_ONE,
        call=_start,
        body=RolloutBody,
        answer=RolloutChanged,
        summary="Move an endpoint's traffic to another backend in steps, back at once if that one is worse.",
    ),
    Operation(method="GET", path=_ONE, call=_get, answer=RolloutView, summary="The last rollout of an endpoint."),
    Operation(method="POST", path=f"{_ONE}/pause", call=_pause, answer=RolloutChanged, summary="Hold the share."),
    Operation(method="POST", path=f"{_ONE}/resume", call=_resume, answer=RolloutChanged, summary="Go on."),
    Operation(
        method="POST", path=f"{_ONE}/abort", call=_abort, answer=RolloutChanged, summary="Back to the old one at once."
    ),
    Operation(
        method="GET",
        path="/v1/rollouts",
        call=_list,
        answer=Rollouts,
        summary="The last rollout of every endpoint that has one.",
    ),
)
