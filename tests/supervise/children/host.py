"""A supervisor as a process of its own: one JSON argument in, events as JSON lines on stdout. See conftest.Tree."""

import os
import sys
from pathlib import Path

import msgspec

from muleteer.base.errors import UsageError
from muleteer.supervise import events
from muleteer.supervise.oom import OomWitness, counter_files
from muleteer.supervise.process import ProcessSpec
from muleteer.supervise.rundir import RunDirectory
from muleteer.supervise.sockets import listen_tcp
from muleteer.supervise.supervisor import Supervisor


class Order(msgspec.Struct):
    run_dir: str
    processes: list[ProcessSpec]
    http: bool = False
    oom_file: str | None = None
    stop_on_failed: bool = False
    quiet_output: bool = False
    deaf_foreground: bool = False


def main() -> int:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    supervisor: Supervisor

    def show(event):
        if order.deaf_foreground:
            raise BrokenPipeError
        if order.quiet_output and isinstance(event, events.Output):
            return
        line = {"event": type(event).__name__, **msgspec.to_builtins(event)}
        rest = msgspec.json.encode(line) + b"\n"
        while rest:  # with PYTHONUNBUFFERED the file object may write a part only, when a signal comes
            rest = rest[os.write(1, rest) :]
        if order.stop_on_failed and line["event"] == "Failed":
            supervisor.stop("a process FAILED", 6)

    run_dir = RunDirectory(Path(order.run_dir))
    sockets = {}
    try:
        run_dir.open("127.0.0.1", 0)
        if order.http:
            sockets["http"] = listen_tcp("127.0.0.1", 0)
            run_dir.publish(*sockets["http"].getsockname())
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    oom = OomWitness([Path(order.oom_file)] if order.oom_file else counter_files())
    supervisor = Supervisor(run_dir, order.processes, sockets=sockets, on_event=show, oom=oom)
    status = supervisor.run()
    print(supervisor.statistics(), file=sys.stderr)
    return status


sys.exit(main())
