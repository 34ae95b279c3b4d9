"""Runs rollouts: asks the gateways what they counted, takes the pure step, and commits the traffic it decides on. Must
not know the statistics behind a decision (`control.rollout`), nor HTTP.

A rollout and its traffic are one commit, so a controller that is killed goes on where it was. Counts that a gateway
took with it when it ended are dropped, and the window begins anew: what is compared was seen whole, by both versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from muleteer.base.clock import Clock
from muleteer.base.errors import StateError
from muleteer.base.limits import ROLLOUT_TICK_S
from muleteer.control import rollout as machine
from muleteer.control.change import NotFoundError, RolloutActiveError, endpoint_of
from muleteer.control.declaration import Commit, Declaration
from muleteer.control.rollout import Decision, Policy, Rollout, Window
from muleteer.control.rollout_view import RolloutView, view
from muleteer.control.windows import Reading, read, window_of_shadow, window_of_version
from muleteer.spec.settings import Declared
from muleteer.spec.traffic import Shadow

WHO = "rollout"
Able = Callable[[str], bool | str]


class Note(msgspec.Struct, frozen=True):
    """What is kept beside a rollout. `epochs`: the lives of the gateways that counted its window; `shadow`: what the
    endpoint declared before.
    """

    epochs: dict[str, str] = {}
    shadow: Shadow | None = None


class Rolling:
    """All rollouts of a server.

    Args:
        statistics: asks every gateway what it counts; None for one that does not answer.
        able: whether a backend can serve; or why it never will.
        follow: told what is declared from now on.
    """

    def __init__(
        self,
        declaration: Declaration,
        *,
        statistics: Callable[[], Awaitable[Mapping[str, dict[str, Any] | None]]],
        able: Able,
        follow: Callable[[Declared], None],
        notice: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._declaration = declaration
        self._statistics = statistics
        self._able = able
        self._follow = follow
        self._notice = notice
        self._clock = clock
        self._rollouts = dict(declaration.rollouts)
        self._notes = {name: _decode(declaration.notes.get(_key(name))) for name in self._rollouts}
        self._seen: dict[str, tuple[Window, Window]] = {}
        self._words: dict[str, str] = {}
        self._begun = asyncio.Event()

    def view(self, endpoint: str) -> RolloutView:
        """The last rollout of an endpoint, for people. Raises NotFoundError."""
        rollout = self.get(endpoint)
        old, new = self._seen.get(endpoint, (Window(), Window()))
        return view(rollout, old, new, self._words.get(endpoint, rollout.reason), self._clock.now())

    def views(self) -> list[RolloutView]:
        """The last rollout of every endpoint that has one."""
        return [self.view(endpoint) for endpoint in self._rollouts]

    async def run(self) -> None:
        """Tick for ever; ends by cancellation."""
        while True:
            if not self.active():
                self._begun.clear()
                await self._begun.wait()
            await self.tick()
            await asyncio.sleep(ROLLOUT_TICK_S)

    async def tick(self) -> None:
        """One look at every active rollout. While a gateway is silent nothing is decided."""
        reading = read(await self._statistics())
        if reading is None:
            self._words |= dict.fromkeys(self.active(), "a gateway does not answer: nothing is decided meanwhile")
            return
        for endpoint in self.active():
            name = f"rollout of {endpoint}"
            try:
                self._look(self._rollouts[endpoint], reading)
            except StateError as error:
                self._declaration.problems.begin(name, str(error))
            else:
                self._declaration.problems.end(name)

    def active(self) -> list[str]:
        """Endpoints whose traffic a rollout moves."""
        return [name for name, rollout in self._rollouts.items() if not rollout.ended()]

    def versions_wanted(self) -> set[str]:
        """Backends that a rollout moves traffic to: they may not sleep, or what is compared would be their start."""
        return {self._rollouts[name].new for name in self.active()}

    def known(self) -> list[str]:
        """Endpoints with a rollout, ended or not."""
        return list(self._rollouts)

    def forget(self, endpoint: str) -> None:
        """The endpoint is gone."""
        self._rollouts.pop(endpoint, None)
        self._notes.pop(endpoint, None)
        self._seen.pop(endpoint, None)
        self._words.pop(endpoint, None)

    def get(self, endpoint: str) -> Rollout:
        """The last rollout of an endpoint. Raises NotFoundError."""
        endpoint_of(self._declaration.declared, endpoint)
        if endpoint not in self._rollouts:
            raise NotFoundError(f"endpoint {endpoint!r} has no rollout")
        return self._rollouts[endpoint]

    def start(self, endpoint: str, to: str, policy: Policy, *, who: str) -> Rollout:
        """Begin. Raises NotFoundError, RolloutActiveError, SpecError, StateError."""
        declared = self._declaration.declared
        spec = endpoint_of(declared, endpoint)
        if not any(backend.name == to for backend in declared.backends):
            raise NotFoundError(f"there is no backend {to!r}")
        if endpoint in self.active():
            raise RolloutActiveError(f"endpoint {endpoint!r} has a rollout already, to {self._rollouts[endpoint].new}")
        begun = machine.begin(endpoint, spec.traffic, to, policy)
        self._put(begun, Note(shadow=spec.shadow), Decision("wait", begun.reason), who=who)
        self._begun.set()
        return begun

    def pause(self, endpoint: str, *, who: str) -> Rollout:
        """Hold the share. Raises NotFoundError, SpecError, StateError."""
        moved, decision = machine.pause(self.get(endpoint))
        return self._put(moved, self._notes[endpoint], decision, who=who)

    async def resume(self, endpoint: str, *, who: str) -> Rollout:
        """Go on. Raises NotFoundError, SpecError, StateError; the last also while a gateway is silent."""
        self.get(endpoint)
        reading = read(await self._statistics())
        if reading is None:
            raise StateError("a gateway does not answer: repeat when it is back")
        rollout = self.get(endpoint)
        note = msgspec.structs.replace(self._notes[endpoint], epochs=reading.epochs)
        old, new = _windows(rollout, reading)
        moved, decision = machine.resume(rollout, self._clock.now(), old, new)
        return self._put(moved, note, decision, who=who)

    def abort(self, endpoint: str, *, who: str) -> Rollout:
        """Back to the old version at once. Raises NotFoundError, SpecError, StateError."""
        moved, decision = machine.abort(self.get(endpoint))
        return self._put(moved, self._notes[endpoint], decision, who=who)

    def _look(self, rollout: Rollout, reading: Reading) -> None:
        note = self._notes[rollout.endpoint]
        old, new = _windows(rollout, reading)
        if note.epochs != reading.epochs:
            rollout = msgspec.structs.replace(rollout, base_old=old, base_new=new, looked_at=0)
            note = msgspec.structs.replace(note, epochs=reading.epochs)
        self._seen[rollout.endpoint] = old.since(rollout.base_old), new.since(rollout.base_new)
        able = self._able(rollout.new)
        if isinstance(able, str):
            moved, decision = machine.fail(rollout, able)
        else:
            moved, decision = machine.step(rollout, self._clock.now(), old, new, ready=able)
        if moved.phase != rollout.phase:  # copies and requests are counted apart
            old, new = _windows(moved, reading)
            moved = msgspec.structs.replace(moved, base_new=new) if not moved.ended() else moved
        self._put(moved, note, decision, who=WHO)

    def _put(self, rollout: Rollout, note: Note, decision: Decision, *, who: str) -> Rollout:
        """Make it so: with a revision where traffic changes, without where it does not, not at all if only words do."""
        endpoint = rollout.endpoint
        before = self._rollouts.get(endpoint)
        after = _declare(self._declaration.declared, rollout, note, decision)
        notes: dict[str, str | None] = {_key(endpoint): msgspec.json.encode(note).decode()}
        if after != self._declaration.declared:
            what = f"rollout of {endpoint} to {rollout.new}: {decision.reason}"
            commit = Commit(declared=after, who=who, what=what, rollouts={endpoint: rollout}, notes=notes)
            self._declaration.change(commit, force=decision.event in ("harm", "abort"))
            self._follow(after)
        elif before is None or note != self._notes[endpoint] or _silent(before) != _silent(rollout):
            self._declaration.save(rollout, notes)
        self._rollouts[endpoint], self._notes[endpoint] = rollout, note
        self._words[endpoint] = decision.reason
        if decision.event != "wait":
            if not rollout.ended():
                self._seen.pop(endpoint, None)
            self._notice(f"rollout of {endpoint} to {rollout.new}, {rollout.phase}: {decision.reason}")
        return rollout


def _windows(rollout: Rollout, reading: Reading) -> tuple[Window, Window]:
    """Running totals of both versions; of the new one those of its copies while it gets nothing else."""
    old = window_of_version(reading.version(rollout.endpoint, rollout.old))
    phase = rollout.paused_from or rollout.phase
    copied = phase == "shadowing" or (phase == "pending" and rollout.policy.shadow_first)
    if copied:
        return old, window_of_shadow(reading.shadow(rollout.endpoint, rollout.new))
    return old, window_of_version(reading.version(rollout.endpoint, rollout.new))


def _declare(declared: Declared, rollout: Rollout, note: Note, decision: Decision) -> Declared:
    """What is declared once the decision is made."""
    changes: dict[str, Any] = {}
    if decision.traffic is not None:
        changes["traffic"] = decision.traffic
    if decision.shadow_percent is not None:
        percent = decision.shadow_percent
        changes["shadow"] = Shadow(backend=rollout.new, percent=percent) if percent else note.shadow
    if not changes:
        return declared
    endpoints = tuple(
        msgspec.structs.replace(endpoint, **changes) if endpoint.name == rollout.endpoint else endpoint
        for endpoint in declared.endpoints
    )
    return msgspec.structs.replace(declared, endpoints=endpoints)


def _silent(rollout: Rollout) -> Rollout:
    """Without the words, which change with every second that is left."""
    return msgspec.structs.replace(rollout, reason="")


def _key(endpoint: str) -> str:
    return f"rollout {endpoint}"


def _decode(text: str | None) -> Note:
    return msgspec.json.decode(text, type=Note) if text is not None else Note()
