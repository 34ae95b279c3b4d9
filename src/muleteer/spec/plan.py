"""The difference of two declarations, as a list of changes, what each costs, and how to say it. Pure; must not know
what runs: a plan compares what was declared with what is declared now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from muleteer.spec.forms import describe_replicas, format_replicas
from muleteer.spec.load import show_value
from muleteer.spec.setting import Cost
from muleteer.spec.settings import SETTINGS, BackendSettings, BackendSpec, Declared, EndpointSpec, Replicas, Slo
from muleteer.spec.units import format_seconds

Kind = Literal["add", "change", "remove"]
What = Literal["backend", "endpoint", "server"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change.

    Attributes:
        name: of the backend or endpoint; empty for the server.
        field: what changes; empty when the whole thing is added or removed.
        before, after: as JSON values: the field's, or the whole thing's; None where there is none.
        cost: what the change asks of what runs (`spec.setting.Cost`); adding and removing touch nothing else: live.
    """

    kind: Kind
    what: What
    name: str
    field: str = ""
    before: Any = None
    after: Any = None
    cost: Cost = "live"


class Plan(msgspec.Struct, frozen=True):
    """All changes, in the order in which they are safe: what is newly needed first, what is no longer needed last.

    `replicas`: of each changed backend, how many there may be before and after.
    """

    changes: tuple[Change, ...] = ()
    replicas: dict[str, tuple[Replicas, Replicas]] = {}

    def of(self, what: What, kind: Kind) -> Iterator[Change]:
        """The changes of one kind to one sort of thing."""
        return (change for change in self.changes if (change.what, change.kind) == (what, kind))

    def replaced(self) -> set[str]:
        """Backends whose replicas are replaced."""
        return {change.name for change in self.of("backend", "change") if change.cost == "replace"}


def diff(before: Declared, after: Declared) -> Plan:
    """What must change so that `after` is what is declared."""
    old_backends = {backend.name: backend for backend in before.backends}
    new_backends = {backend.name: backend for backend in after.backends}
    backends = list(_changes("backend", old_backends, new_backends))
    endpoints = list(_changes("endpoint", {e.name: e for e in before.endpoints}, {e.name: e for e in after.endpoints}))
    server = _fields("server", "", before.server, after.server)
    changes = [
        *(change for change in backends if change.kind != "remove"),
        *(change for change in endpoints if change.kind != "remove"),
        *(change for change in endpoints if change.kind == "remove"),
        *(change for change in backends if change.kind == "remove"),
        *server,
    ]
    changed = {change.name for change in backends if change.kind == "change"}
    replicas = {
        name: (old_backends[name].settings.bounds, new_backends[name].settings.bounds) for name in sorted(changed)
    }
    return Plan(tuple(changes), replicas)


def _changes(
    what: What, old: dict[str, BackendSpec] | dict[str, EndpointSpec], new: dict[str, Any]
) -> Iterator[Change]:
    for name, spec in new.items():
        if name not in old:
            yield Change(kind="add", what=what, name=name, after=_json(spec))
        else:
            yield from _fields(what, name, old[name], spec)
    for name, spec in old.items():
        if name not in new:
            yield Change(kind="remove", what=what, name=name, before=_json(spec))


def _fields(what: What, name: str, old: Any, new: Any) -> Iterator[Change]:
    """One change per field that differs. A setting says its cost; another model is a replacement; routing is live."""
    for field in old.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if before == after or (field in SETTINGS and SETTINGS[field].secret):
            continue
        if field == "settings":
            yield from _fields(what, name, before, after)
            continue
        yield Change(
            kind="change",
            what=what,
            name=name,
            field=field,
            before=_json(before),
            after=_json(after),
            cost=_cost(what, field),
        )


def _json(value: Any) -> Any:
    """`value` as it would come back from JSON: a plan that was sent equals the one that was made."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _cost(what: What, field: str) -> Cost:
    if what == "endpoint":
        return "live"
    return SETTINGS[field].cost if field in SETTINGS else "replace"


# for people


def render_plan(plan: Plan) -> str:
    """What will happen, in words, a few lines for each thing that changes. No final newline."""
    if not plan.changes:
        return "nothing to change"
    lines: list[str] = []
    seen: set[tuple[str, str]] = set()
    for change in plan.changes:
        title = f"{change.what} {change.name}".rstrip()
        if change.kind == "add":
            lines.append(f"+ {title}: {_added(change)}")
        elif change.kind == "remove":
            lines.append(f"- {title}: {_removed(change)}")
        else:
            if (change.what, change.name) not in seen:
                seen.add((change.what, change.name))
                same = [other for other in plan.of(change.what, "change") if other.name == change.name]
                lines.append(f"~ {title}: {_effect(same, plan)}")
            lines.append(f"    {change.field}: {_move(change, plan)}")
    return "\n".join(lines)


def _added(change: Change) -> str:
    if change.what == "backend":
        return f"{change.after['target']}, {_started(_bounds(change.after))}"
    return f"{change.after['route']} → {_weights(change.after['traffic'])}"


def _removed(change: Change) -> str:
    if change.what == "backend":
        return f"finishes its requests, then stops {_running(_bounds(change.before))}"
    return f"{change.before['route']} answers 404"


def _bounds(backend: dict[str, Any]) -> Replicas:
    """How many replicas there may be of a backend that was made JSON."""
    settings = backend["settings"]
    return msgspec.convert({name: settings.get(name) for name in ("replicas", "slo")}, BackendSettings).bounds


def _effect(changes: list[Change], plan: Plan) -> str:
    """What the changes of one thing do together: several reasons to replace replicas replace them once."""
    costs = {change.cost for change in changes}
    effects = []
    before, after = plan.replicas.get(changes[0].name, (Replicas(0, 0), Replicas(0, 0)))
    if "replace" in costs:
        effects.append(f"replaces {_running(before)} one by one, no request lost")
    elif "reconfigure" in costs:
        effects.append(f"tells {_running(before)}, none is restarted")
    if before != after:
        effects.append(_resized(before, after))
    if "restart" in costs:
        effects.append("takes effect when the server is started again")
    return ", ".join(effects) or "at once, no request lost"


def _resized(before: Replicas, after: Replicas) -> str:
    if after.min != after.max:
        return f"has {describe_replicas(after)}, as many as its load needs"
    if before.min != before.max:
        return f"has {describe_replicas(after)}, whatever its load"
    more = after.min - before.min
    return f"starts {more} more" if more > 0 else f"finishes the requests of {-more} and stops them"


def _started(bounds: Replicas) -> str:
    more = ", as many as its load needs" if bounds.min != bounds.max else ""
    return f"starts {describe_replicas(bounds)}{more}"


def _running(bounds: Replicas) -> str:
    return describe_replicas(bounds) if bounds.min == bounds.max else "its replicas"


def _move(change: Change, plan: Plan) -> str:
    """`1 → 2`. Replicas that were left open are shown as what that means."""
    if change.what == "backend" and change.field == "replicas":
        old, new = map(format_replicas, plan.replicas[change.name])
        if old != new:
            return f"{old} → {new}"
    return f"{_shown(change, change.before)} → {_shown(change, change.after)}"


def _shown(change: Change, value: Any) -> str:
    if change.what != "endpoint" and change.field in SETTINGS:
        return show_value(SETTINGS[change.field], _value(change.field, value))
    if change.field == "traffic":
        return _weights(value)
    if value is None:
        return "none"
    if change.field == "timeout":
        return format_seconds(value)
    if isinstance(value, dict):  # affinity, shadow, override
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items() if part is not None)
    return " ".join(value) if isinstance(value, list) else str(value)


def _value(field: str, value: Any) -> Any:
    """The value of a setting that was made JSON."""
    return msgspec.convert(value, Slo) if field == "slo" and value is not None else value


def _weights(traffic: dict[str, float]) -> str:
    return " ".join(f"{name}={_plain(weight)}" for name, weight in traffic.items())


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
