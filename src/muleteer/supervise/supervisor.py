"""The parent of every process: the table, the reaper, shutdown. Must not know models or HTTP, and runs no user code."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
from collections.abc import Callable, Mapping, Sequence

import msgspec

from muleteer.base.clock import Clock, MonotonicClock
from muleteer.base.errors import WireError
from muleteer.supervise import events, messages
from muleteer.supervise.child import become_subreaper
from muleteer.supervise.kept import KeptProcess, Request, Surroundings
from muleteer.supervise.loop import Loop
from muleteer.supervise.oom import OomWitness, counter_files
from muleteer.supervise.orphans import children_of, kill_orphans
from muleteer.supervise.process import ProcessSpec, Template
from muleteer.supervise.reaping import reap
from muleteer.supervise.rundir import RunDirectory
from muleteer.supervise.states import State

CONTROLLER = "controller"
"""The only id that may ensure, remove and retry, and that is told of every change."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")  # names a file; longer than any name of a backend
_LEAVING = frozenset({State.STOPPING, State.STOPPED})
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ONE_SIGNAL_S = 0.2  # `timeout` and some shells send the same signal twice: to the process and to its group


class SupervisorStatistics(msgspec.Struct, frozen=True):
    """What `Supervisor.statistics()` returns. `states`: processes by state; the rest is counted since the start."""

    states: dict[str, int]
    reaped: int
    orphans_reaped: int


def _nobody(_event: events.Event) -> None:
    """For a supervisor without a foreground."""


class Supervisor:
    """Keeps processes alive until it is told to stop.

    Args:
        run_dir: open, its lock held; closed at the end of `run()`.
        processes: kept from the start (controller, gateway); the controller asks for more.
        sockets: listening sockets by the name under which `ProcessSpec.sockets` may ask for them; ours from now on.
        on_event: told what the person in the foreground may want to see. Must not block. An OSError from it (the
            terminal is gone) silences it for good.
        clock: monotonic seconds.
        chance: uniform in [0, 1), for the jitter of pauses.
        oom: tells an OOM kill from others; None reads this machine's counters.
        tether: a descriptor whose end of file stops everything, like SIGTERM; closed when it has.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        processes: Sequence[ProcessSpec],
        *,
        sockets: Mapping[str, socket.socket] | None = None,
        on_event: Callable[[events.Event], None] = _nobody,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        oom: OomWitness | None = None,
        tether: int | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._tether = open(tether, "rb", buffering=0) if tether is not None else None  # noqa: PTH123, SIM115
        self._initial = tuple(processes)
        self._given = dict(sockets or {})
        self._on_event = on_event
        self._clock = clock or MonotonicClock()
        self._oom = oom or OomWitness(counter_files())
        self._loop = Loop(self._clock)
        self._around = Surroundings(
            self._loop,
            self._clock,
            chance,
            run_dir.logs,
            self._given,
            self._emit,
            self._on_change,
            self._on_request,
            self._template_of,
        )
        self._table: dict[str, KeptProcess] = {}
        self._stopping_since: float | None = None
        self._quick = False
        self._exit_status = 0
        self._reaped = 0
        self._orphans_reaped = 0

    def run(self) -> int:
        """Keep everything alive until SIGTERM, SIGINT, SIGHUP or `stop()`; returns the exit status.

        0 after an orderly stop, 1 if a second signal cut it short. No child and no socket is left, whatever happens.
        Takes over the signals of this process; to be called in its main thread, with no other thread running.
        """
        from setproctitle import setproctitle

        setproctitle(f"muleteer: supervisor {self._run_dir.path}")
        become_subreaper()
        strangers = children_of(os.getpid())
        self._loop.open((signal.SIGCHLD, *filter(_not_ignored, _STOP_SIGNALS)), self._on_signal)
        if self._tether is not None:
            self._loop.watch(self._tether, self._pull)
        try:
            for spec in self._initial:
                self._ensure(spec)
            while True:
                if self._stopping_since is not None:
                    self._go_on_stopping()
                if not self._table:
                    return self._exit_status
                self._loop.turn()
        finally:
            for process in self._table.values():
                process.abandon()
            kill_orphans(strangers)
            self._close_given()
            self._let_go()
            self._run_dir.close()
            self._loop.close()  # last: until here an impatient signal changes nothing

    def stop(self, cause: str, exit_status: int = 0) -> None:
        """Begin the orderly stop, lower ranks first; a second time: kill what is left. `on_event` may call it."""
        if self._stopping_since is None:
            self._exit_status = exit_status
            self._stopping_since = self._clock.now()
            self._close_given()  # a port closes when its last holder closes: now that is up to the gateways alone
        else:
            self._exit_status = self._exit_status or 1
            self._quick = True
        self._emit(events.ShutDown(cause, self._quick))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Run `call` once in a turn of `run()`, `seconds` from now or later. It must not block; `on_event` may ask."""
        self._loop.after(seconds, call)

    def statistics(self) -> SupervisorStatistics:
        """A frozen snapshot."""
        states: dict[str, int] = {}
        for process in self._table.values():
            states[process.state.value] = states.get(process.state.value, 0) + 1
        return SupervisorStatistics(states, self._reaped, self._orphans_reaped)

    # signals

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD:
            self._reap()
            return
        since = self._stopping_since
        if since is None or self._clock.now() - since > _ONE_SIGNAL_S:
            self.stop(number.name)

    def _pull(self) -> None:
        if self._tether is None or self._tether.read(4096):
            return
        self._let_go()
        if self._stopping_since is None:
            self.stop("the process that started it has ended")

    def _let_go(self) -> None:
        if self._tether is not None:
            self._loop.forget(self._tether)
            self._tether.close()
            self._tether = None

    def _reap(self) -> None:
        for process in reap(self._of_pid, self._oom, self._clock):
            if process is None:
                self._orphans_reaped += 1
            else:
                self._reaped += 1

    def _of_pid(self, pid: int) -> KeptProcess | None:
        for process in self._table.values():
            if process.child is not None and process.child.pid == pid:
                return process
        return None

    # the table

    def _ensure(self, spec: ProcessSpec) -> None:
        if not _ID.fullmatch(spec.id):
            raise WireError(f"process id {spec.id!r} is not allowed")
        if not spec.argv:
            raise WireError(f"process {spec.id} has no program to run")
        if spec.id not in self._table:
            process = self._table[spec.id] = KeptProcess(spec, self._around)
            process.start()

    def _template_of(self, process: KeptProcess, template: Template) -> KeptProcess:
        """It runs as the process that asks for it: what holds for that one holds for all that it forks."""
        if template.id not in self._table:
            self._ensure(
                msgspec.structs.replace(
                    process.spec,
                    id=template.id,
                    argv=template.argv,
                    sockets={},
                    labels={"template_of": process.spec.labels.get("backend", process.spec.id)},
                    template=None,
                    forks=True,
                )
            )
        found = self._table[template.id]
        if found.state is State.FAILED:
            found.retry()
        return found

    def _tell_forked(self, template: KeptProcess) -> None:
        for process in tuple(self._table.values()):
            if process.spec.template is not None and process.spec.template.id == template.spec.id:
                process.template_changed(template)

    def _end_unused(self, template: Template) -> None:
        found = self._table.get(template.id)
        staying = [process.spec.template for process in self._table.values() if process.state not in _LEAVING]
        if (
            found is not None
            and found.state not in _LEAVING
            and all(used is None or used.id != template.id for used in staying)
        ):
            found.stop()

    def _on_change(self, process: KeptProcess) -> None:
        if process.state is State.STOPPED:
            del self._table[process.spec.id]
        self._tell_controller(process)
        if self._stopping_since is not None:
            return  # everything goes, in its order
        if process.spec.forks:
            self._tell_forked(process)
        elif process.spec.template is not None and process.state in _LEAVING:
            self._end_unused(process.spec.template)

    def _tell_controller(self, process: KeptProcess) -> None:
        controller = self._table.get(CONTROLLER)
        if controller is None:
            return
        if process is controller and controller.state is State.STARTING:
            controller.send(messages.ProcessesMessage([kept.status() for kept in self._table.values()]))
        else:
            controller.send(messages.ProcessMessage(process.status()))

    def _on_request(self, sender: KeptProcess, request: Request) -> None:
        if isinstance(request, messages.Abort):
            self._abort(request)
            return
        if sender.spec.id != CONTROLLER:
            raise WireError(f"only the controller may ask for {type(request).__name__.lower()}")
        if self._stopping_since is not None:
            return  # everything goes, in its order
        if isinstance(request, messages.Shutdown):
            self.stop("the admin API")
            return
        if isinstance(request, messages.Ensure):
            self._ensure(request.process)
            return
        process = self._table.get(request.process)
        if process is None:
            return  # gone meanwhile; the controller has been told, or is about to read it
        if isinstance(request, messages.Remove):
            process.stop()
        else:
            process.retry()

    def _abort(self, request: messages.Abort) -> None:
        process = self._table.get(request.process)
        if process is not None:
            process.abort(request.pid, request.reason)
            return
        for each in self._table.values():  # a replica that another engine started
            if each.spec.takes_aborts:
                each.send(request)

    # the end

    def _go_on_stopping(self) -> None:
        while self._table:
            lowest = min(process.spec.stop_rank for process in self._table.values())
            for process in tuple(self._table.values()):
                if self._quick or (process.spec.stop_rank == lowest and process.state is not State.STOPPING):
                    process.stop(quick=self._quick)
            if any(process.spec.stop_rank == lowest for process in self._table.values()):
                return  # their ends are awaited; a rank without a living process is gone already

    def _close_given(self) -> None:
        for listener in self._given.values():
            listener.close()
        self._given.clear()

    def _emit(self, event: events.Event) -> None:
        try:
            self._on_event(event)
        except OSError:
            self._on_event = _nobody


def _not_ignored(number: signal.Signals) -> bool:
    """Under `nohup` SIGHUP is ignored, and stays so."""
    return number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
