"""`muleteer serve --detach`: the server in a process of its own; this one shows its start and returns.

The lines travel as JSON through a pipe. The last word of the server is `serving`, or `failed`, with the exit status; if
the pipe ends without one, it died. A model for which there is no room beside the others is `failed`, too, although
these are served. Must not know how a server is run.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from muleteer.base.errors import StartupFailedError, UsageError, UsageErrors
from muleteer.cli.output import Paint, say
from muleteer.cli.server import Server, Task
from muleteer.supervise.output import LogFile
from muleteer.wire.lines import LineDecoder, encode_line

LOG = "supervisor.log"


def run_detached(task: Task) -> int:
    """Start the server, show its start, return when it serves. The exit status is that of a start that failed, or of a
    model that is left out.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _Detached(task, writing).run()
    os.close(writing)
    try:
        return _show(reading, Path(task.declared.server.run_dir))
    except KeyboardInterrupt:  # the person gave up on the start
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(reading)


def _show(reading: int, run_dir: Path) -> int:
    decoder = LineDecoder()
    while data := os.read(reading, 65536):
        for message in decoder.feed(data):
            if message["type"] == "say":
                say(message["text"])
            elif message["type"] == "failed":
                for text in message["errors"]:
                    say(f"muleteer: {text}", to=sys.stderr)
                status: int = message["status"]
                return status
            else:
                return 0
    raise UsageError(f"the server died while it started; see {run_dir / 'logs' / LOG}")


class _Detached:
    """The child's side. `run()` never returns."""

    def __init__(self, task: Task, pipe: int) -> None:
        self._task = task
        self._pipe: int | None = pipe
        self._paint = Paint(sys.stdout)  # of the terminal that started us
        self._log: LogFile | None = None

    def run(self) -> None:
        """Serve, and exit."""
        status = 1
        try:
            os.setsid()
            self._leave_terminal()
            status = self._serve()
        finally:
            os._exit(status)  # the stack above belongs to the parent's command

    def _serve(self) -> int:
        try:
            server = Server(
                self._task, say=self._say, paint=self._paint, show_output=False, on_serving=self._on_serving
            )
            return server.run()
        except UsageError as error:
            each = error.errors if isinstance(error, UsageErrors) else (error,)
            texts = [str(one) for one in each]
            self._write("\n".join(texts))
            self._send({"type": "failed", "errors": texts, "status": error.exit_status})
            return error.exit_status
        except BaseException as error:  # noqa: BLE001  nobody above us would show it
            import traceback

            self._write("".join(traceback.format_exception(error)))
            return 1

    def _leave_terminal(self) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)

    def _say(self, text: str) -> None:
        if self._log is None:  # not earlier: until the server speaks, the run directory may be another's
            self._log = LogFile(Path(self._task.declared.server.run_dir, "logs", LOG))
        self._write(text)
        self._send({"type": "say", "text": text})

    def _on_serving(self, left_out: list[str]) -> None:
        if left_out:
            errors = [*left_out, "the others are served all the same, until muleteer stop"]
            self._send({"type": "failed", "errors": errors, "status": StartupFailedError.exit_status})
        else:
            self._send({"type": "serving"})
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _send(self, message: dict[str, Any]) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, encode_line(message))
        except OSError:  # the person has gone; the log has it
            os.close(self._pipe)
            self._pipe = None

    def _write(self, text: str) -> None:
        if self._log is not None:
            self._log.write(f"{text}\n".encode())
