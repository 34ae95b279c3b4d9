"""`python -m bench.run`: measures everything in one run on one machine, and writes bench/results."""

from __future__ import annotations

import argparse
import datetime as dt
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import batching, gateways, many, nginx, plan, report, routing, sections, shadow, slo, threads, wrk
from bench.measure import machine
from muleteer import __version__

BUSY_PERCENT_MAX = 10
"""Above this the figures say more about others than about us."""
SECTIONS = (
    *(
        "starting",
        "front",
        "routing",
        "shadow",
        "gateways",
        "batching",
        "slo",
        "many",
        "plan",
        "threads",
        "ray",
        "fancy",
        "overload",
    ),
)
RESULTS = Path(__file__).with_name("results")


def facts(seed: int) -> dict[str, object]:
    """What the figures depend on."""
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    )
    version = (
        subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr.strip().rpartition("/")[2]
    )
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "muleteer": __version__,
        "revision": revision.stdout.strip(),
        "seed": seed,
        "nginx": version,
        **machine(),
    }


def main() -> int:
    """Exit status 0 if everything could be measured, targets missed or not; 1 if a tool is missing."""
    parser = argparse.ArgumentParser(description="measure muleteer beside nginx; the quick form takes some 7 minutes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", choices=SECTIONS)
    given = parser.parse_args()
    missing = [tool.MISSING for tool in (wrk, nginx) if not tool.available()]
    if missing:
        print("\n".join(missing), file=sys.stderr)
        return 1
    begun = time.monotonic()
    known, found = facts(given.seed), []
    remarks: list[str] = []
    if int(str(known["busy_before_percent"])) > BUSY_PERCENT_MAX:
        remarks.append(f"the machine was {known['busy_before_percent']} % busy with other things before the start")
        print(remarks[0], flush=True)
    with tempfile.TemporaryDirectory(prefix="mule") as name:
        folder = Path(name)

        def wanted(section: str) -> bool:
            if given.only not in (None, section):
                return False
            print(f"[{time.monotonic() - begun:5.1f} s] {section} …", flush=True)
            return True

        if wanted("starting"):
            found.append(sections.starting(folder, rounds=given.rounds))
        if wanted("front"):
            found.append(sections.front(folder, random.Random(given.seed), rounds=given.rounds, seconds=given.seconds))
        if wanted("routing"):
            found.append(routing.section(random.Random(given.seed), rounds=3 * given.rounds))
        if wanted("shadow"):
            found.append(shadow.shadow(folder, rounds=given.rounds, seconds=2 * given.seconds))
        if wanted("gateways"):
            found.append(
                gateways.section(folder, random.Random(given.seed), rounds=given.rounds, seconds=given.seconds)
            )
        if wanted("batching"):
            found.append(
                batching.section(folder, random.Random(given.seed), rounds=given.rounds, seconds=given.seconds)
            )
        if wanted("slo"):
            found.append(slo.section(folder, random.Random(given.seed), seconds=1.5 * given.seconds))
        if wanted("many"):
            found.append(many.section(folder, random.Random(given.seed), seconds=15 * given.seconds))
        if wanted("plan"):
            found.append(
                plan.section(folder, random.Random(given.seed), rounds=given.rounds, seconds=3 * given.seconds)
            )
        if wanted("threads"):
            found.append(threads.section(folder, rounds=given.rounds, seconds=given.seconds))
        if wanted("ray"):
            from bench import ray  # needs `muleteer[ray]` and Ray Serve

            found.append(ray.section(folder, random.Random(given.seed), rounds=given.rounds, seconds=given.seconds))
        capacity = 0.0
        if given.only in (None, "fancy", "overload") and (wanted("fancy") or given.only == "overload"):
            section, capacity = sections.fancy(folder, rounds=given.rounds, seconds=2 * given.seconds)
            found.append(section)
        if wanted("overload"):
            found.append(sections.overload(folder, capacity, rounds=given.rounds, seconds=2 * given.seconds))
    known["took_s"] = round(time.monotonic() - begun)
    missed = [
        f"{figure.name}: {report.number(figure.value)} {figure.unit}, {figure.verdict}"
        for section in found
        for figure in section.figures
        if figure.reached is False
    ]
    print(report.markdown(known, found, remarks))
    print("every target reached" if not missed else "missed:\n  " + "\n  ".join(missed))
    if given.only is None:
        stem = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d-%H%M%S")
        paths = report.write(RESULTS, stem, known, found, remarks + missed)
        print("written: " + ", ".join(str(path.relative_to(RESULTS.parent.parent)) for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
