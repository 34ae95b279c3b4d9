"""Figures with their targets, as JSON and as a Markdown table. Must not know how they were measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One number. `target` with `better`: to reach at least (`more`) or at most (`less`); None: no target is set."""

    name: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["more", "less"] = "less"
    rounds: tuple[float, ...] = ()

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without one. A figure that could not be measured meets none."""
        if self.target is None:
            return None
        if math.isnan(self.value):
            return False
        return self.value >= self.target if self.better == "more" else self.value <= self.target

    @property
    def verdict(self) -> str:
        """For the table; a missed target says by how much."""
        if self.target is None:
            return ""
        bound = f"{'≥' if self.better == 'more' else '≤'} {number(self.target)}"
        if self.reached:
            return f"{bound}: reached"
        off = f" ({number(100 * abs(self.value / self.target - 1))} % off)" if self.target else ""
        return f"{bound}: **missed**{off}"


@dataclass
class Section:
    """One table."""

    title: str
    note: str
    figures: list[Figure] = field(default_factory=list)

    def add(self, *figures: Figure) -> None:
        """In the order of the table."""
        self.figures += figures


def median(values: list[float]) -> float:
    """The middle one; NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def number(value: float) -> str:
    """Three figures, thousands separated."""
    if math.isnan(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(facts: dict[str, Any], sections: list[Section], remarks: list[str]) -> str:
    """The whole report."""
    lines = ["# Benchmark", "", ", ".join(f"{name} {value}" for name, value in facts.items() if value != ""), ""]
    for section in sections:
        lines += [
            f"## {section.title}",
            "",
            section.note,
            "",
            "| figure | value | rounds | target |",
            "|---|---|---|---|",
        ]
        for figure in section.figures:
            rounds = " · ".join(number(value) for value in figure.rounds)
            lines.append(f"| {figure.name} | {number(figure.value)} {figure.unit} | {rounds} | {figure.verdict} |")
        lines.append("")
    if remarks:
        lines += ["## Remarks", "", *(f"- {remark}" for remark in remarks), ""]
    return "\n".join(lines)


def write(
    folder: Path, stem: str, facts: dict[str, Any], sections: list[Section], remarks: list[str]
) -> tuple[Path, Path]:
    """Both files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data = folder / f"{stem}.md", folder / f"{stem}.json"
    text.write_text(markdown(facts, sections, remarks))
    figures = [
        {
            "section": section.title,
            "name": figure.name,
            "value": None if math.isnan(figure.value) else figure.value,
            "unit": figure.unit,
            "target": figure.target,
            "better": figure.better if figure.target is not None else None,
            "reached": figure.reached,
            "rounds": list(figure.rounds),
        }
        for section in sections
        for figure in section.figures
    ]
    data.write_text(json.dumps({"facts": facts, "figures": figures, "remarks": remarks}, indent=2) + "\n")
    return text, data
