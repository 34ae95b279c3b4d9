"""What is counted in pieces, by name: GPUs, and what nodes of a cluster have besides. Pure; must not know who asks."""

from __future__ import annotations

from collections.abc import Mapping

Pieces = Mapping[str, float]
"""Amounts by name; a name that is missing: none of it."""
GPU = "GPU"
_GRAIN = 1e-9


def pieces(gpus: float, resources: Pieces) -> Pieces:
    """Both together."""
    return {GPU: gpus, **resources} if gpus else resources


def plus(one: Pieces, other: Pieces) -> Pieces:
    """The sum."""
    return {**one, **{name: one.get(name, 0.0) + amount for name, amount in other.items()}} if other else one


def minus(one: Pieces, other: Pieces) -> Pieces:
    """The difference; below 0 where it falls short."""
    return plus(one, {name: -amount for name, amount in other.items()}) if other else one


def lacking(asked: Pieces, there: Pieces) -> Pieces:
    """By how much `asked` is more than what is there; empty if it is not."""
    return {
        name: amount - there.get(name, 0.0)
        for name, amount in asked.items()
        if amount > max(0.0, there.get(name, 0.0)) + _GRAIN
    }


def format_pieces(name: str, count: float) -> str:
    """`2 GPUs`, `1 fast_disk`."""
    return f"{count:g} {'GPUs' if name == GPU else name}"
