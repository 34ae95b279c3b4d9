"""The command `muleteer`: finds the verb and shows its errors. Must not know what any verb does.

The command line is stdlib argparse with flags generated from `spec.settings`: it imports in 8 ms where cyclopts
takes 152 ms, and every verb starts in the time a person does not notice. For the same reason verbs are imported late.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from muleteer.base.errors import UsageError, UsageErrors
from muleteer.spec.nearest import did_you_mean

VERBS = {
    "serve": "serve models over HTTP",
    "status": "what runs, like ps",
    "stop": "stop the server, letting requests finish",
    "logs": "what the processes wrote",
    "apply": "declare what a muleteer.yaml declares",
    "diff": "what apply would change, and what that costs",
    "traffic": "split an endpoint's requests over backends",
    "rollout": "move an endpoint to another backend in steps, back if that one is worse",
    "scale": "how many replicas a backend has",
    "delete": "remove a backend or an endpoint",
    "history": "what was declared: when, by whom",
    "rollback": "declare again what an earlier revision declared",
    "explain": "why a backend has as many replicas, as long a queue and as large batches as it has",
    "check": "start one replica of a model by itself and call it on its example",
    "plan": "measure a model, and say what a rate within a target needs",
    "config": "every setting with its value and where it came from; every limit with its reason",
}
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return the exit status. Boundary of all UsageErrors."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _prepare_streams()
    try:
        return _dispatch(given)
    except UsageError as error:
        for each in error.errors if isinstance(error, UsageErrors) else (error,):
            print(f"muleteer: {each}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # `muleteer logs | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


def _prepare_streams() -> None:
    """What was closed is /dev/null, or the next socket would be our stdout. What a stream cannot spell is escaped."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    verb = given[0]
    if verb in ("-V", "--version"):
        from muleteer import __version__

        print(f"muleteer {__version__}")
        return 0
    if verb not in VERBS:
        what = "flag" if verb.startswith("-") else "command"
        hint = did_you_mean(verb, (*VERBS, "--help", "--version")) or "; muleteer --help lists them"
        raise UsageError(f"unknown {what} {verb}{hint}")
    status: int = import_module(f"muleteer.cli.{verb}").run(given[1:])
    return status


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<10}{about}" for verb, about in VERBS.items())
    return f"""\
muleteer takes a plain Python class and serves it in production.

Start with these two:
  muleteer serve model.py:Model --route /predict
  curl -d '{{"text": "hello"}}' -H 'content-type: application/json' localhost:8000/predict

Commands (muleteer COMMAND --help says more):
{verbs}"""
