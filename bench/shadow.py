"""Whether a shadow is felt: one backend behind a plain endpoint and behind ones that copy every call, in turns."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path

from bench.load import Load, Record, Target, quantile
from bench.report import Figure, Section
from bench.sections import MODELS, REPLICAS, drive, nonce_body, of
from bench.server import Server, wait_until

RATE = 300
SHADOWS = ("hangs", "answers")
_FILE = """\
backends:
  primary: {{model: "models.py:FancyModel", replicas: {replicas}}}
  hangs: {{model: "models.py:Hangs"}}
  answers: {{model: "models.py:FancyModel", replicas: {replicas}}}
endpoints:
  plain: {{route: /plain, traffic: {{primary: 1}}}}
  hangs: {{route: /hangs, traffic: {{primary: 1}}, shadow: {{backend: hangs, percent: 100}}}}
  answers: {{route: /answers, traffic: {{primary: 1}}, shadow: {{backend: answers, percent: 100}}}}
"""


def shadow(folder: Path, *, rounds: int, seconds: float) -> Section:
    """Latency of requests whose copies go to a backend that hangs, and to one that answers."""
    section = Section(
        "A shadow",
        f"FancyModel, {REPLICAS} replicas, open loop at {RATE}/s. Three endpoints share them: one without a shadow, "
        "one whose calls are all copied to a backend that never answers, one with a shadow that does. They take turns; "
        "latencies count from sending, and the p99 is that of all turns together.",
    )
    shutil.copy(MODELS, folder / "models.py")
    (folder / "muleteer.yaml").write_text(_FILE.format(replicas=REPLICAS))
    seen: dict[str, list[list[Record]]] = {name: [] for name in ("plain", *SHADOWS)}
    together: dict[str, float] = {}
    failed = 0
    with Server(folder, "-c", "muleteer.yaml") as server:
        wait_until(lambda: _ready(server) == 2 * REPLICAS + 1, "all replicas", seconds=30)
        drive(Load(Target(server.port, "/plain", nonce_body)).open_loop(RATE, 1.0))
        for _ in range(rounds):
            for name, records in seen.items():
                records.append(drive(Load(Target(server.port, f"/{name}", nonce_body)).open_loop(RATE, seconds)))
        counted = {name: server.statistics()["endpoints"][name]["shadows"][name] for name in SHADOWS}
    for name, turns in seen.items():
        waits = [[1e3 * (r.done - r.sent) for r in records if r.status == 200] for records in turns]
        together[name] = quantile([*chain(*waits)], 0.99)
        failed += sum(map(len, turns)) - sum(map(len, waits))
        section.add(
            of(f"{name}: p50", "ms", [quantile(each, 0.5) for each in waits]),
            Figure(f"{name}: p99", together[name], "ms", rounds=tuple(quantile(each, 0.99) for each in waits)),
        )
    section.add(
        Figure("answers other than 200", failed, "", target=0.0),
        Figure("p99 with a shadow that hangs ÷ without", together["hangs"] / together["plain"], "", target=1.1),
        Figure("p99 with a shadow that answers ÷ without", together["answers"] / together["plain"], ""),
    )
    for name, counts in counted.items():
        section.add(*(Figure(f"{name}: copies {what}", count, "") for what, count in counts.items() if count))
    return section


def _ready(server: Server) -> int:
    return sum(backend["links_ready"] for backend in server.statistics()["backends"].values())
