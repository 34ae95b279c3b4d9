"""`muleteer check`: one replica by itself, called on its example through the same wire that a gateway speaks."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from muleteer.base.errors import UsageError, UsageErrors
from muleteer.cli.exits import cannot_serve
from muleteer.cli.flags import Parser, add_settings, forget_secrets, given_settings
from muleteer.cli.output import harmless, say
from muleteer.control.proc import resident_bytes
from muleteer.engine.port import ReplicaRequest
from muleteer.spec.load import resolve
from muleteer.spec.settings import SETTINGS
from muleteer.spec.targets import check_target
from muleteer.spec.units import format_bytes
from muleteer.trial.link import Unit
from muleteer.trial.replica import EndedError, TrialReplica, scratch

OF_INTEREST = ("batch", "concurrency", "timeout", "max_body", "load_timeout")
_LABEL = 10
_ANSWER_CHARS_MAX = 200


def run(arguments: Sequence[str]) -> int:
    """Check one TARGET. Raises UsageError, StartupFailedError with the reason."""
    parser = Parser("check", "Start one replica of TARGET by itself, call it on its `example`, and show what it costs.")
    parser.add_argument("target", metavar="TARGET", help="file.py:Name or package.module:Name")
    parser.add_argument("--calls", type=int, default=20, metavar="N", help="calls to measure (default: 20)")
    add_settings(parser, [SETTINGS[name] for name in OF_INTEREST])
    found = parser.parse(arguments)
    settings, problems = resolve(given_settings(found), os.environ)
    forget_secrets(os.environ, SETTINGS.values())
    if problems:
        raise UsageErrors(problems)
    if found.calls < 1:
        raise UsageError("--calls must be at least 1")
    name = check_target(found.target, Path.cwd()).name
    request = ReplicaRequest(
        id=name,
        backend=name,
        generation=0,
        target=found.target,
        base_dir=str(Path.cwd()),
        settings=settings.backend(),
        debug=True,
    )
    say(found.target)
    with scratch("check") as directory:
        _check(request, Path(directory), found.calls)
    say("ok")
    return 0


def _check(request: ReplicaRequest, directory: Path, calls: int) -> None:
    def show_line(line: str) -> None:
        say(f"{request.id} | {harmless(line)}", to=sys.stderr)

    with TrialReplica(
        request, directory, on_stage=lambda stage, seconds: _row(stage, milliseconds(seconds)), on_line=show_line
    ) as replica:
        try:
            replica.start()
        except EndedError as error:
            raise cannot_serve(request.target, error.last_exit) from None
        _row("ready", f"{milliseconds(replica.startup_s)} after its start")
        _show_types(replica.info)
        if "example" in replica.info:
            _call(replica, msgspec.json.encode(replica.info["example"]), calls)
        else:
            _row("calls", "none: a class attribute `example` with one input would be called, here and at each start")
        _row("memory", format_bytes(resident_bytes(replica.pid) or 0))


def _call(replica: TrialReplica, body: bytes, calls: int) -> None:
    unit = Unit((body,), "the call on `example`")
    answers = [replica.call(unit) for _ in range(calls)]
    took = [answered.seconds for answered in answers]
    _row("example", f"{_shortened(body)} → {_shortened(answers[-1].bodies[0])}")
    spread = f"{milliseconds(min(took))} to {milliseconds(max(took))}"
    _row("call", f"{milliseconds(statistics.median(took))} (median of {calls}, {spread})")


def _show_types(info: dict[str, object]) -> None:
    parameters = info.get("parameters")
    _row("takes", ", ".join(map(str, parameters)) if isinstance(parameters, list) and parameters else "nothing")
    _row("returns", str(info.get("returns") or "not said: `-> type` on predict would tell"))
    if info.get("batch"):
        _row("batches", "yes: calls that wait together are answered together; here each goes by itself")


def _row(label: str, text: str) -> None:
    say(f"  {harmless(label):<{_LABEL}}{harmless(text)}")


def _shortened(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return text if len(text) <= _ANSWER_CHARS_MAX else text[:_ANSWER_CHARS_MAX] + "…"


def milliseconds(seconds: float) -> str:
    """`0.215 ms`, `5.1 ms`, `412 ms`."""
    return f"{seconds * 1000:.{0 if seconds >= 0.1 else 1 if seconds >= 0.001 else 3}f} ms"
