"""Many models on a budget that holds a third of them: who is refused, what warm calls feel of it, what is used."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.load import Load, Record, Target, quantile
from bench.report import Figure, Section
from bench.sections import MODELS, drive, nonce_body
from bench.server import Server, encoded, wait_until
from bench.watch import Watch, sample
from muleteer.spec.file import load_file
from muleteer.testing.arrivals import poisson, steady

MODELS_COUNT = 45
FIT = 15
RATE = 10.0
GIVE_UP_S = 60.0  # twice the deadline: until then the server has said something
ZIPF = 1.0
DOCUMENTED = {"loading", "memory", "queue_full", "predicted_late"}
WARM_S = 0.05
"""A model counts as warm for a call that was sent so long after its warm-up: the news travels to the gateway."""
LANGUAGES_RATE = 1.0  # a start of most of them keeps a core busy for three seconds
TRANSLATED = {"en": "en-pt", "pt": "pt-en"}
LANGUAGES = Path(__file__).parents[1] / "examples" / "languages"


@dataclass
class Several(Target):
    """Requests to several endpoints: `routes[n]` is that of the n-th."""

    routes: Sequence[str] = field(default_factory=tuple)

    def route(self, nonce: int) -> str:
        return self.routes[nonce - 1]


class _Answer(msgspec.Struct):
    warm_at: float


class _Error(msgspec.Struct):
    code: str


def section(folder: Path, dice: random.Random, *, seconds: float) -> Section:
    """Models made for it, then the real ones of examples/languages, each for `seconds`."""
    found = Section(
        "Many models on one budget",
        f"{MODELS_COUNT} models of 40 MB and 5 ms, `replicas: {{min: 0, max: 2}}`, on a budget for {FIT} of them and "
        f"the server's own processes, measured with one alone. Poisson arrivals, {RATE:g} calls/s, the n-th model "
        f"called in proportion to n^-{ZIPF:g}. Warm: its model was ready when it was sent. Alone: one such model, the "
        "same rate. Memory: PSS, five times a second. Then examples/languages/, "
        f"{LANGUAGES_RATE:g} sentence/s, their order by chance.",
    )
    alone, size, own = _alone(folder, dice, seconds / 2)
    budget = FIT * size + own
    names = [f"m{number}" for number in range(1, MODELS_COUNT + 1)]
    file = folder / "many.yaml"
    file.write_text(_declared(names, budget, "{min: 0, max: 2}"))
    offsets = _offsets(RATE, seconds, dice)
    picked = dice.choices(names, weights=_zipf(len(names)), k=len(offsets))
    with Server(folder, "-c", str(file)) as server, Watch(server.pid, folder) as watch:
        records = _drive(server, offsets, [f"/{name}" for name in picked], nonce_body)
    warm = [1e3 * (r.done - r.sent) for r in records if r.status == 200 and _warm(r)]
    cold = [1e3 * (r.done - r.sent) for r in records if r.status == 200 and not _warm(r)]
    found.add(
        Figure("one model", size / 1e6, "MB"),
        Figure("alone: p99", quantile(alone, 0.99), "ms"),
        Figure("warm calls: p50", quantile(warm, 0.5), "ms"),
        Figure("warm calls: p99", quantile(warm, 0.99), "ms"),
        Figure("warm calls: p99 ÷ alone", quantile(warm, 0.99) / quantile(alone, 0.99), "", target=1.5),
        Figure("calls that waited for a start", 100 * len(cold) / len(records), "%"),
        Figure("calls that waited for a start: p50", quantile(cold, 0.5), "ms"),
        *_outcomes("", records),
        *_memory("", watch, budget),
    )
    _languages(folder, dice, seconds, found)
    return found


def _zipf(count: int) -> list[float]:
    return [1 / rank**ZIPF for rank in range(1, count + 1)]


def _declared(names: list[str], budget: int, replicas: str) -> str:
    lines = [f"server: {{memory_budget: {budget}}}", "backends:"]
    lines += [f'  {name}: {{model: "{MODELS}:Weighs", replicas: {replicas}}}' for name in names]
    lines += ["endpoints:", *(f"  {name}: {{route: /{name}, backend: {name}}}" for name in names)]
    return "\n".join(lines) + "\n"


def _alone(folder: Path, dice: random.Random, seconds: float) -> tuple[list[float], int, int]:
    """Latencies of one such model in ms; bytes of it, and of the server's other processes."""
    with Server(folder, f"{MODELS}:Weighs", "--route", "/m1") as server:
        wait_until(lambda: server.statistics()["backends"]["Weighs"]["links_ready"], "the replica", seconds=30)
        offsets = _offsets(RATE, seconds, dice)
        records = _drive(server, offsets, ["/m1"] * len(offsets), nonce_body)
        seen = sample(server.pid)
        assert seen is not None
    return [1e3 * (r.done - r.sent) for r in records if r.status == 200], seen.held, seen.whole - seen.held


def _drive(server: Server, offsets: list[float], routes: Sequence[str], body: Callable[[int], bytes]) -> list[Record]:
    return drive(Load(Several(server.port, "", body, routes=routes, timeout_s=GIVE_UP_S)).timed(offsets))


def _offsets(rate: float, seconds: float, dice: random.Random) -> list[float]:
    return poisson(steady(rate), rate, seconds, dice)


def _warm(record: Record) -> bool:
    return msgspec.json.decode(record.body, type=_Answer).warm_at + WARM_S <= record.sent


def _outcomes(name: str, records: Sequence[Record]) -> list[Figure]:
    """Every refusal by its code; failures are what no document names."""
    answers = Counter(
        record.failure or ("ok" if record.status == 200 else f"{record.status} {_code(record)}") for record in records
    )
    refused = {answer for answer in answers if answer in {f"503 {code}" for code in DOCUMENTED}}
    failed = len(records) - answers["ok"] - sum(answers[answer] for answer in refused)
    told = ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items()) if answer not in {"ok", *refused})
    return [
        *(Figure(f"{name}{answer}", 100 * answers[answer] / len(records), "%") for answer in sorted(refused)),
        Figure(f"{name}failures of {len(records)} calls{f' ({told})' if told else ''}", failed, "", target=0),
    ]


def _code(record: Record) -> str:
    try:
        return msgspec.json.decode(record.body, type=_Error).code
    except msgspec.DecodeError:
        return "?"


def _memory(name: str, watch: Watch, budget: int) -> list[Figure]:
    held, whole = max(sample.held for sample in watch.samples), max(sample.whole for sample in watch.samples)
    return [
        Figure(f"{name}replicas at once, most", max(sample.replicas for sample in watch.samples), ""),
        Figure(f"{name}memory of the replicas, most", held / 1e6, "MB"),
        Figure(f"{name}budget", budget / 1e6, "MB"),
        Figure(f"{name}memory of all processes, most ÷ budget", whole / budget, "", target=1.05),
    ]


def _languages(folder: Path, dice: random.Random, seconds: float, found: Section) -> None:
    """Each sentence is sent to its language; the answer must be the one beside it in the file."""
    sentences = [line.split("\t") for line in (LANGUAGES / "sentences.tsv").read_text().splitlines()]
    dice.shuffle(sentences)
    offsets = _offsets(LANGUAGES_RATE, seconds, dice)
    picked = dice.choices(sentences, weights=_zipf(len(sentences)), k=len(offsets))
    routes = [f"/translate/{TRANSLATED[name]}" if name in TRANSLATED else f"/romanise/{name}" for name, *_ in picked]
    budget = load_file(LANGUAGES / "muleteer.yaml").server.memory_budget
    assert budget
    with Server(folder, "-c", str(LANGUAGES / "muleteer.yaml")) as server, Watch(server.pid, folder) as watch:
        records = _drive(server, offsets, routes, lambda nonce: encoded({"text": picked[nonce - 1][1]}))
    wrong = sum(
        msgspec.json.decode(record.body) != expected
        for record, (_, _, expected) in zip(records, picked, strict=True)
        if record.status == 200
    )
    found.add(
        Figure("languages: answers", 100 * sum(r.status == 200 for r in records) / len(records), "%"),
        Figure("languages: wrong answers", wrong, "", target=0),
        *_outcomes("languages: ", records),
        *_memory("languages: ", watch, budget),
    )
