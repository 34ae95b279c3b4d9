"""How the end of a process reads: one line, the lines behind it, and the error of a model that cannot be served."""

from __future__ import annotations

from muleteer.base.errors import OwnProcessError, StartupFailedError
from muleteer.cli.output import harmless
from muleteer.supervise.process import LastExit

TAIL_LINES = 15


def exit_text(last_exit: LastExit) -> str:
    """One line: the reason and its message's first line, else how the process ended."""
    first = last_exit.message.strip().split("\n", 1)[0]
    if first:
        return f"{last_exit.reason}: {first}"
    if last_exit.signal:
        return f"{last_exit.reason} by {last_exit.signal}"
    return last_exit.reason if last_exit.code is None else f"{last_exit.reason} with status {last_exit.code}"


def exit_details(last_exit: LastExit) -> list[str]:
    """What stands behind that line: the user's own frames; where it gave no message, the end of what it wrote."""
    if last_exit.message.strip():
        return last_exit.message.strip().split("\n")[1:]
    return [line for line in last_exit.log_tail.rstrip().split("\n")[-TAIL_LINES:] if line]


def cannot_serve(target: str, last_exit: LastExit) -> StartupFailedError:
    """The error of a start that failed: one clear line, then the details, indented."""
    return StartupFailedError(_with_details(f"cannot serve {target}", last_exit))


def cannot_run(id: str, failed_starts: int, last_exit: LastExit) -> OwnProcessError:
    """The same for a process of ours."""
    return OwnProcessError(_with_details(f"{id} did not start, {failed_starts} times in a row", last_exit))


def _with_details(what: str, last_exit: LastExit) -> str:
    lines = [f"{what}: {exit_text(last_exit)}", *(f"  {line}" for line in exit_details(last_exit))]
    return "\n".join(harmless(line) for line in lines)
