"""What a replica asks of the cluster, in Ray's words, and why it has no place yet. Pure; must not import ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from muleteer.engine.port import Capacity
from muleteer.spec.ray_options import ray_options
from muleteer.spec.settings import BackendSettings

_CPUS = 1.0
"""Reserved for a replica that does not say: what Ray itself reserves for one of Serve's."""
_STORE = "object_store_memory"
_NODE_PART = 0.001
"""Of the one `node:ADDRESS` that each node has: being there takes next to nothing of it."""
_WORDS = {"CPU": "CPUs", "GPU": "GPUs", "memory": "bytes of memory"}


_GRAIN = 2e-4


class Node(msgspec.Struct, frozen=True):
    """One machine of the cluster.

    Attributes:
        resources: in all, by Ray's names; `free`: of those, what nobody has.
        reason: why it is not alive.
    """

    id: str
    address: str
    alive: bool
    resources: dict[str, float] = {}
    free: dict[str, float] = {}
    reason: str = ""


class Waiting(msgspec.Struct, frozen=True):
    """So many that ask for this have no place, ours and others': what is only being started is not among them."""

    resources: dict[str, float]
    count: int


class View(msgspec.Struct, frozen=True):
    """The cluster at one moment. `waiting`: None where Ray does not tell."""

    nodes: tuple[Node, ...] = ()
    waiting: tuple[Waiting, ...] | None = None

    @property
    def living(self) -> tuple[Node, ...]:
        """Nodes that are there."""
        return tuple(node for node in self.nodes if node.alive)

    def node(self, id: str) -> Node | None:
        """By Ray's id; None if it is not known (any more)."""
        return next((node for node in self.nodes if node.id == id), None)

    def waits(self, asked: Mapping[str, float], later: int = 0) -> bool:
        """Whether one that asks for this has no place, if those come first that were asked for first; `later`: that ask
        for the same, were asked for after it, and have not begun either. Where Ray does not tell, it may be.
        """
        if self.waiting is None:
            return True
        return sum(each.count for each in self.waiting if _same(each.resources, asked)) > later

    def capacity(self) -> Capacity:
        """What all nodes have together, and what of it nobody has. Devices have no names across machines: each is
        `node/number`.
        """
        gpus = tuple(
            f"{node.address}/{number}" for node in self.living for number in range(int(node.resources.get("GPU", 0)))
        )
        memory = int(sum(node.resources.get("memory", 0) for node in self.living))
        free = {name: sum(node.free.get(name, 0.0) for node in self.living) for name in ("CPU", "GPU", "memory")}
        return Capacity(
            sum(node.resources.get("CPU", 0) for node in self.living),
            memory or None,
            gpus,
            int(free["memory"]),
            free["CPU"],
            free["GPU"],
            tuple({name: amount for name, amount in node.free.items() if name != _STORE} for node in self.living),
            _custom(node.resources for node in self.living),
            _custom(node.free for node in self.living),
        )


def _custom(nodes: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """What nodes have besides what every node has, added up."""
    found: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.items():
            if name not in _WORDS and name != _STORE:
                found[name] = found.get(name, 0.0) + amount
    return found


def demand(settings: BackendSettings) -> dict[str, float]:
    """What one replica reserves, by Ray's names; zeros are left out."""
    wanted = {
        "CPU": settings.cpus if settings.cpus is not None else _CPUS,
        "GPU": settings.gpus,
        "memory": float(settings.memory or 0),
        **ray_options(settings.ray).resources,
    }
    return {name: amount for name, amount in wanted.items() if amount}


def asked_of_ray(settings: BackendSettings) -> dict[str, float]:
    """The same, with the resource that each node has of its own where only one may have it."""
    node = ray_options(settings.ray).node
    return demand(settings) | ({f"node:{node}": _NODE_PART} if node else {})


def has_place(settings: BackendSettings, free: Iterable[Mapping[str, float]]) -> bool:
    """Whether a node with so much free takes one replica with these settings."""
    asked = asked_of_ray(settings)
    return any(_fits(asked, each) for each in free)


def actor_options(settings: BackendSettings) -> dict[str, Any]:
    """Arguments of `ActorClass.options` that say where. `node` becomes the resource that each node has of its own."""
    wanted = asked_of_ray(settings)
    custom = {name: amount for name, amount in wanted.items() if name not in _WORDS}
    asked = ray_options(settings.ray)
    options: dict[str, Any] = {
        "num_cpus": wanted.get("CPU", 0.0),
        "num_gpus": wanted.get("GPU", 0.0),
        "resources": custom,
        "scheduling_strategy": "DEFAULT" if asked.placement == "pack" else "SPREAD",
    }
    if "memory" in wanted:
        options["memory"] = wanted["memory"]
    return options


def why_unplaced(wanted: Mapping[str, float], node: str, view: View, *, waits: bool = True) -> str | None:
    """One sentence on a replica that Ray has not placed yet; None if it should have a place in a moment.

    Args:
        wanted: as from `demand`.
        node: the only one it may go to; empty: any.
        view: the cluster as last seen.
        waits: see `View.waits`. Where it does not, it has what is missing itself, and only starts.
    """
    able = view.living
    if node:
        able = tuple(each for each in able if node in (each.address, each.id))
        if not able:
            return f"waits for node {node}, which is not in the cluster ({_names(view.living)})"
    asked = _amounts(wanted)
    large = [each for each in able if _fits(wanted, each.resources)]
    if not large:
        most = _amounts(_most(wanted, [each.resources for each in able]))
        return f"waits for a node with {asked}: none of {len(able)} is that large; the most there is on one: {most}"
    if not waits or any(_fits(wanted, each.free) for each in large):
        return None
    most = _amounts(_most(wanted, [each.free for each in large]))
    return f"waits for a node with {asked} free; the most that is free on one: {most}"


def _fits(wanted: Mapping[str, float], offered: Mapping[str, float]) -> bool:
    return all(offered.get(name, 0) >= amount for name, amount in wanted.items())


def _same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """But for the rounding of Ray, which counts ten-thousandths."""
    return one.keys() == other.keys() and all(abs(one[name] - other[name]) < _GRAIN for name in one)


def _most(wanted: Iterable[str], offered: Iterable[Mapping[str, float]]) -> dict[str, float]:
    every = list(offered)
    return {name: max((each.get(name, 0) for each in every), default=0) for name in wanted}


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:.10g} {_WORDS.get(name, name)}" for name, amount in resources.items()) or "nothing"


def _names(nodes: Iterable[Node]) -> str:
    return ", ".join(node.address for node in nodes) or "no node is alive"
