"""`muleteer plan`: how many replicas, how much memory and how many cores a rate within a target needs, found by
measuring the model by itself.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from muleteer.base.errors import UsageError, UsageErrors
from muleteer.cli.exits import cannot_serve
from muleteer.cli.flags import Parser, add_settings, forget_secrets, given_settings
from muleteer.cli.output import harmless, say
from muleteer.cli.plan_text import as_json, share_on_core, show_measured, show_plan
from muleteer.control.capacity_plan import CapacityPlan, Question, plan, yaml_text
from muleteer.engine.local import LocalEngine
from muleteer.engine.port import ReplicaRequest
from muleteer.engine.threads import threads
from muleteer.spec.load import resolve
from muleteer.spec.names import check_name
from muleteer.spec.settings import SETTINGS, BackendSettings, BackendSpec
from muleteer.spec.targets import check_target
from muleteer.spec.units import parse_bytes
from muleteer.trial.link import Unit
from muleteer.trial.measure import Measured
from muleteer.trial.replica import EndedError, scratch
from muleteer.trial.run import measure

OF_INTEREST = (
    "slo",
    "concurrency",
    "timeout",
    "max_body",
    "load_timeout",
    "batch",
    "batch_max",
    "cpus",
)
OUT_OF_REACH = 1
COMPUTES = 0.5
"""Share of a call on a core from which a model computes rather than waits: then its threads decide how fast it is."""
LINES_SHOWN = 20
"""Of what the model prints: a model that prints at each call would bury the answer."""
_BATCH_MAX = 1024


def run(arguments: Sequence[str]) -> int:
    """Measure TARGET and answer. Exit status 1 if the target is out of reach. Raises UsageError, StartupFailedError."""
    found = _parser().parse(arguments)
    settings, problems = resolve(given_settings(found), os.environ)
    forget_secrets(os.environ, SETTINGS.values())
    if problems:
        raise UsageErrors(problems)
    backend = settings.backend()
    question = _question(found, backend)
    target = check_target(found.target, Path.cwd())
    inputs = [_read_input(text) for text in found.input]
    name = found.name or target.name
    check_name(name, "--name")
    spec = BackendSpec(name=name, target=found.target, base_dir=str(Path.cwd()), settings=backend)
    if found.write:
        _check_place(found.write, force=found.force)
    if not found.json:
        say(found.target)
    measured = _measure(spec, inputs, found.seconds, question)
    if not found.json:
        show_measured(measured)
    answer = _answer(question, measured)
    folder = Path(found.write or "muleteer.yaml").resolve().parent
    text = yaml_text(answer, question, _as_measured(spec, question, measured, answer), found.route, folder=str(folder))
    if found.json:
        say(as_json(question, measured, answer, text))
    else:
        show_plan(question, measured, answer)
    if answer.problems:
        return OUT_OF_REACH
    if found.write:
        Path(found.write).write_text(text)
        say(f"written: {found.write}; muleteer serve -c {found.write}", to=sys.stderr if found.json else sys.stdout)
    elif not found.json:
        say("\n" + text.rstrip())
    return 0


def _parser() -> Parser:
    parser = Parser(
        "plan",
        "Measure TARGET by itself, and say how many replicas, how much memory and how many cores keep the target at a "
        "rate.",
    )
    parser.add_argument("target", metavar="TARGET", help="file.py:Name or package.module:Name")
    parser.add_argument("--rate", required=True, type=_rate, metavar="CALLS", help="calls per second to plan for")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="FILE|JSON",
        help="a body as clients send it: a file, or the JSON itself; repeated, they take turns (default: the model's "
        "`example`)",
    )
    parser.add_argument(
        "--seconds", type=_positive, default=10.0, metavar="N", help="time to measure, starts not counted (default: 10)"
    )
    parser.add_argument(
        "--cores", type=_positive, metavar="N", help="cores of the machine it is for (default: this one's)"
    )
    parser.add_argument(
        "--memory", type=_size, metavar="SIZE", help="memory of the machine it is for (default: this one's)"
    )
    parser.add_argument("--name", default="", help="of the backend (default: the class's)")
    parser.add_argument("--route", default="/predict", metavar="PATH", help="of the endpoint (default: /predict)")
    parser.add_argument("--write", metavar="FILE", help="write the muleteer.yaml that declares it")
    parser.add_argument("--force", action="store_true", help="overwrite that file")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_settings(parser, [SETTINGS[name] for name in OF_INTEREST])
    return parser


def _question(found: argparse.Namespace, backend: BackendSettings) -> Question:
    if backend.slo is None:
        raise UsageError("--slo is missing: which response time must hold? E.g. --slo p99=100ms")
    here = LocalEngine(lambda _: None, "").capacity()
    return Question(
        rate=found.rate,
        p99_s=backend.slo.p99,
        cores=found.cores or here.cpus,
        memory_bytes=found.memory or here.memory_bytes,
        timeout_s=backend.timeout,
    )


def _measure(spec: BackendSpec, inputs: Sequence[Unit], seconds: float, question: Question) -> Measured:
    request = ReplicaRequest(
        id=spec.name,
        backend=spec.name,
        generation=0,
        target=spec.target,
        base_dir=spec.base_dir,
        settings=spec.settings,
        debug=True,
    )

    said = 0

    def show_line(line: str) -> None:
        nonlocal said
        said += 1
        if said <= LINES_SHOWN:
            say(f"{spec.name} | {harmless(line)}", to=sys.stderr)

    with scratch("plan") as directory:
        try:
            return measure(
                request,
                Path(directory),
                inputs,
                seconds=seconds,
                target_s=question.p99_s,
                size_max=spec.settings.batch_max or _BATCH_MAX,
                on_line=show_line,
            )
        except EndedError as error:
            raise cannot_serve(spec.target, error.last_exit) from None
        finally:
            if said > LINES_SHOWN:
                say(f"{spec.name} | … {said - LINES_SHOWN:,} more lines are not shown", to=sys.stderr)


def _answer(question: Question, measured: Measured) -> CapacityPlan:
    """For several replicas with what a call costs beside others."""
    for beside in (False, True):
        found = plan(question, measured.workload(beside=beside), first_bytes=measured.first_bytes)
        if found.replicas == 1:
            break
    return found


def _as_measured(spec: BackendSpec, question: Question, measured: Measured, answer: CapacityPlan) -> BackendSpec:
    """With the threads that it was measured with, where a model that computes would get more on that machine."""
    settings, cores = spec.settings, question.cores
    served = msgspec.structs.replace(settings, replicas=answer.replicas)
    computes = share_on_core(measured) > COMPUTES
    if settings.cpus is not None or cores is None or not computes or threads(served, cores) == threads(settings, cores):
        return spec
    return msgspec.structs.replace(spec, settings=msgspec.structs.replace(settings, cpus=threads(settings, cores)))


def _read_input(text: str) -> Unit:
    """A file's content if there is one of that name, else the JSON itself. Raises UsageError."""
    what = f"the call on --input {text if len(text) <= 60 else text[:60] + '…'}"
    try:
        is_file = Path(text).is_file()
    except OSError:  # a name too long for one
        is_file = False
    body = Path(text).read_bytes() if is_file else text.encode("utf-8", "surrogateescape")
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        if is_file:
            raise UsageError(f"--input {text} holds no JSON: {error}") from None
        raise UsageError(f"--input {text!r} is neither a file nor JSON: {error}") from None
    return Unit((body,), what)


def _check_place(file: str, *, force: bool) -> None:
    """Whether the file may be written. Raises UsageError, before anything is measured."""
    folder = Path(file).resolve().parent
    if not folder.is_dir():
        raise UsageError(f"--write {file}: there is no folder {folder}")
    if Path(file).exists() and not force:
        raise UsageError(f"--write {file}: it exists; --force overwrites it")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _rate(text: str) -> float:
    return _positive(text.removesuffix("/s"))


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
