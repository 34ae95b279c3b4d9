"""`python -m tests.faults.chaos`: every fault, hard and for long, times held as promised; a table at the end."""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.faults import FAULTS, strike
from tests.faults.report import Size, SkipFault


def main():
    parser = argparse.ArgumentParser(description="commit every fault of docs/behaviour.md and compare with its promise")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: all of {', '.join(FAULTS)}")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load around each fault")
    parser.add_argument("--kills", type=int, default=50, help="of a process, where one is killed again and again")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--clients", type=int, default=200, help="that misbehave together")
    parser.add_argument("--slack", type=float, default=1.0, help="factor on every promised time")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is repeated")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    reports, broken = [], 0
    for turn in range(given.rounds):
        names = given.faults or random.Random(given.seed + turn).sample(sorted(FAULTS), len(FAULTS))
        size = Size(given.seconds, given.rate, given.kills, given.clients, given.slack, given.seed + turn, long=True)
        for name in names:
            begun = time.monotonic()
            print(f"{name} …", end=" ", flush=True)
            with tempfile.TemporaryDirectory(prefix="mule") as folder:
                try:
                    report = strike(name, Path(folder), size)
                except SkipFault as reason:
                    print(f"skipped: {reason}")
                    continue
            broken += len(report.broken)
            print(f"{'kept' if not report.broken else 'BROKEN'} ({time.monotonic() - begun:.0f} s)", flush=True)
            reports.append(report)
    print("\n| fault | promise | observed | |\n|---|---|---|---|")
    print("\n".join(row for report in reports for row in report.table()))
    print(f"\n{broken} promises broken; seed {given.seed}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
