"""One process that is kept alive: its lives, its timers, its sockets. Must not know the other processes or shutdown.

Every move goes through the table in `states`; what follows an end is decided by `policy`.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from muleteer.base.clock import Clock
from muleteer.base.errors import UsageError, WireError
from muleteer.base.limits import ABORT_DUMP_S, LEAVE_S, PRIORITY_RETRY_S
from muleteer.supervise import events, messages
from muleteer.supervise.channel import ChannelFull
from muleteer.supervise.child import STARVED, Child, spawn
from muleteer.supervise.fork import ask_for_child
from muleteer.supervise.loop import Loop, Timer
from muleteer.supervise.output import LogFile, Output
from muleteer.supervise.policy import RestartPolicy, Verdict
from muleteer.supervise.priority import session_gives_way, starting_nice
from muleteer.supervise.process import LastExit, ProcessSpec, ProcessStatus, Template
from muleteer.supervise.sockets import Listeners
from muleteer.supervise.states import Event, IllegalMove, State, next_state

Request = messages.Abort | messages.Ensure | messages.Remove | messages.Retry | messages.Shutdown


class Surroundings(msgspec.Struct, frozen=True):
    """What a kept process needs of its supervisor.

    Attributes:
        loop: where it watches and waits.
        clock: monotonic seconds.
        random: uniform in [0, 1).
        logs: directory of logs.
        given: sockets that were opened before the supervisor, by name.
        emit: tells the person in the foreground.
        on_change: the status is another now; called last, when all is consistent.
        on_request: it asks for something about another process; raises WireError if it must not.
        template_of: the process that this one is to be forked from; it is started if need be. None: nothing is forked
            here, each process is executed by itself.
    """

    loop: Loop
    clock: Clock
    random: Callable[[], float]
    logs: Path
    given: Mapping[str, socket.socket]
    emit: Callable[[events.Event], None]
    on_change: Callable[[KeptProcess], None]
    on_request: Callable[[KeptProcess, Request], None]
    template_of: Callable[[KeptProcess, Template], KeptProcess] | None = None


class KeptProcess:
    """One row of the supervisor's table. `start()` once; after STOPPED it is to be forgotten.

    Attributes:
        spec: as declared.
        state: see `states`.
        child: the present life, or None.
    """

    def __init__(self, spec: ProcessSpec, around: Surroundings) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.child: Child | None = None
        self._around = around
        self._since_s = around.clock.now()
        self._policy = RestartPolicy(spec.starts_max, around.random)
        self._log = LogFile(around.logs / f"{spec.id}.log")
        self._listeners = Listeners(spec.sockets, around.given)
        self._timers: list[Timer] = []
        self._lives = 0
        self._info: dict[str, object] = {}
        self._last_exit: LastExit | None = None

    def status(self) -> ProcessStatus:
        """A frozen snapshot."""
        return ProcessStatus(
            id=self.spec.id,
            state=self.state.value,
            pid=None if self.child is None else self.child.pid,
            restarts=max(0, self._lives - 1),
            since_s=round(self._around.clock.now() - self._since_s, 3),
            labels=self.spec.labels,
            info=self._info,
            last_exit=self._last_exit,
        )

    # orders

    def start(self) -> None:
        """Begin a life. Failing to is treated like a failed start. One that is to be forked waits for its template."""
        self._info = {}
        self._log.write(b"")  # it is there from the start, for those who follow it
        template = self._template()
        if template is not None:
            self._around.emit(events.Started(self.spec.id, None, self._lives, self.spec.labels))
            if not template.takes_requests:
                self._around.on_change(self)
                return
        self._begin(template)

    def template_changed(self, template: KeptProcess) -> None:
        """The process that this one is forked from is in another state."""
        if self.state is not State.STARTING or self.child is not None:
            return  # it lives, or does not want to: what becomes of its template is nothing to it
        if template.takes_requests:
            self._begin(template)
        elif template.state in {State.BACKOFF, State.FAILED} and template.status().last_exit is not None:
            self._last_exit = template.status().last_exit
            self._end_start(self._policy.start_failed())
        elif template.state is State.STOPPED:  # it was on its way out when this one asked
            self.start()

    @property
    def takes_requests(self) -> bool:
        """Whether it is a template that forks now."""
        return self.state is State.READY and self.child is not None and self.child.forks is not None

    def stop(self, *, quick: bool = False) -> None:
        """SIGTERM, grace, SIGKILL; `quick`: SIGKILL. Ends in STOPPED; asking again changes nothing but `quick`."""
        first = self.state is not State.STOPPING
        self._move(Event.STOP)
        child = self.child
        if child is not None and child.pid is None:
            self._bury(child)  # the template finds nobody at the other end, and ends what it may have forked
            child = None
        if child is None:
            if self.state is State.STOPPING:
                self._move(Event.GONE)
            self._gone()
            return
        if first:
            self._around.on_change(self)
        if quick:
            child.kill()
        elif first:
            child.send_signal(signal.SIGTERM)
            self._later(self.spec.grace_s, child.kill)

    def abort(self, pid: int, reason: str) -> None:
        """Dump its stacks and kill it, if it still is that pid."""
        if self.child is not None and self.child.pid == pid:
            self._doom(reason, "", dump=True)

    def retry(self) -> None:
        """Start afresh what is FAILED or waits in BACKOFF; anything else is left alone."""
        if self.state in {State.FAILED, State.BACKOFF}:
            self._policy.forgive()
            self._again(Event.RETRY)

    def send(self, message: Any) -> None:
        """A control message, if it is alive. One that does not read them is killed."""
        child = self.child
        if child is None or not child.channel.open:
            return
        try:
            child.channel.send(message)
        except ChannelFull as error:
            self._doom("hung", str(error), dump=True)
        self._around.loop.want_write(child.channel, child.channel.unsent > 0)

    # the end of a life, in three steps of the reaper

    def before_reaping(self) -> None:
        """It is dead, its number still belongs to it: end its group, read what it left."""
        child = self._child()
        child.kill()
        for message in child.channel.receive_rest():
            self._take(child, message)
        child.output.read_rest()

    def after_reaping(self, code: int | None, number: int | None, *, oom: bool) -> None:
        """Settle this life and decide what follows."""
        child = self._child()
        self._bury(child)
        self._last_exit = child.last_exit(code, number, stopped=self.state is State.STOPPING, oom=oom)
        self._around.emit(events.Exited(self.spec.id, self._last_exit))
        if self.state is State.STOPPING:
            self._move(Event.GONE)
            self._gone()
        elif child.ready_s is not None:
            self._follow(self._policy.died_ready(self._around.clock.now() - child.ready_s))
        else:
            self._follow(self._policy.start_failed())

    def abandon(self) -> None:
        """Leave no trace, ask nothing: the supervisor itself fails. The caller reaps."""
        child = self.child
        if child is not None:
            child.kill()
            self._bury(child)
        self._close()

    # what follows

    def _follow(self, verdict: Verdict) -> None:
        if verdict.event is Event.AGAIN:
            self._again(Event.AGAIN)
            return
        self._move(verdict.event)
        if verdict.event is Event.PAUSE:
            self._later(verdict.pause_s, lambda: self._again(Event.RESUME))
            self._around.emit(events.Backoff(self.spec.id, verdict.pause_s, self._policy.failed_starts))
        elif self._last_exit is not None:
            self._around.emit(events.Failed(self.spec.id, self._policy.failed_starts, self._last_exit))
        self._around.on_change(self)

    def _again(self, event: Event) -> None:
        self._cancel_timers()
        self._move(event)
        self.start()

    def _template(self) -> KeptProcess | None:
        if self.spec.template is None or self._around.template_of is None:
            return None
        return self._around.template_of(self, self.spec.template)

    def _begin(self, template: KeptProcess | None) -> None:
        forks = None if template is None or template.child is None else template.child.forks
        try:
            sockets, clock = self._listeners.open(), self._around.clock
            if forks is None:
                child = spawn(self.spec, sockets, clock, self._make_output)
            else:
                child = ask_for_child(forks, self.spec, sockets, clock, self._make_output)
        except (OSError, UsageError) as error:
            self._could_not_start(error)
            return
        self.child = child
        self._lives += 1
        self._around.loop.watch(child.channel, self._on_control, self._on_writable)
        self._around.loop.watch(child.output, self._on_output)
        self._later(self.spec.ready_timeout_s, self._on_ready_timeout)
        self._give_way()
        if child.pid is not None:
            self._around.emit(events.Started(self.spec.id, child.pid, self._lives - 1, self.spec.labels))
        self._around.on_change(self)

    def _on_born(self, child: Child, pid: int) -> None:
        if child.pid is not None or pid <= 1:
            raise WireError(f"{self.spec.id} cannot be born as {pid}")
        child.pid = pid
        self.send(messages.Known())
        self._give_way()
        self._around.on_change(self)

    def _not_born(self, child: Child, reason: str, verdict: Verdict) -> None:
        """There is no process, and there will be none."""
        self._bury(child)
        self._last_exit = LastExit(reason=reason, message="its template did not fork it", log_tail=child.output.tail)
        self._end_start(verdict)

    def _could_not_start(self, error: OSError | UsageError) -> None:
        starved = isinstance(error, OSError) and error.errno in STARVED
        self._last_exit = LastExit(reason="spawn_failed", message=str(error))
        self._end_start(self._policy.starved() if starved else self._policy.start_failed())

    def _end_start(self, verdict: Verdict) -> None:
        assert self._last_exit is not None, "set by the caller"
        self._around.emit(events.Exited(self.spec.id, self._last_exit))
        self._follow(verdict)

    def _gone(self) -> None:
        self._close()
        self._around.emit(events.Stopped(self.spec.id))
        self._around.on_change(self)

    def _doom(self, reason: str, message: str, *, dump: bool) -> None:
        child = self.child
        if child is None or child.doomed is not None:
            return
        if child.pid is None:
            self._not_born(child, reason, self._policy.start_failed())
            return
        child.doomed = (reason, message)
        if dump:
            child.send_signal(signal.SIGABRT)
            self._later(ABORT_DUMP_S, child.kill)
        else:
            child.kill()

    # what it says

    def _on_control(self) -> None:
        child = self._child()
        try:
            received = child.channel.receive()
        except WireError as error:
            self._broke_protocol(child, error)
            return
        for message in received:
            self._take(child, message)
        if not child.channel.open and child.pid is None:
            self._not_born(child, "not_forked", self._policy.starved())
        elif not child.channel.open:
            self._around.loop.forget(child.channel)
            self._later(LEAVE_S, lambda: self._doom("protocol", "closed its control channel and stayed", dump=True))

    def _take(self, child: Child, raw: dict[str, Any]) -> None:
        if child.doomed is not None and child.doomed[0] == "protocol":
            return
        try:
            message = messages.parse(raw)
            if isinstance(message, messages.Stage):
                self._around.emit(events.Stage(self.spec.id, message.stage, message.seconds))
            elif isinstance(message, messages.Born):
                self._on_born(child, message.pid)
            elif isinstance(message, messages.Ready):
                self._on_ready(child, message)
            elif isinstance(message, messages.Failed):
                child.said = (message.reason, message.message)
                self._later(LEAVE_S, child.kill)
            elif isinstance(message, messages.Notice):
                told = (message.text, message.unservable, message.crowded, message.reason)
                self._around.emit(events.Notice(self.spec.id, *told))
            else:
                self._around.on_request(self, message)
        except WireError as error:
            self._broke_protocol(child, error)

    def _broke_protocol(self, child: Child, error: Exception) -> None:
        self._around.emit(events.Notice(self.spec.id, f"broke the control protocol and is killed: {error}"))
        self._around.loop.forget(child.channel)
        child.channel.close()
        self._doom("protocol", str(error), dump=False)

    def _on_ready(self, child: Child, message: messages.Ready) -> None:
        if child.doomed is not None:
            return  # too late, its SIGKILL is under way
        try:
            self._move(Event.READY)
        except IllegalMove as error:
            raise WireError(str(error)) from None
        child.ready_s = self._around.clock.now()
        self._info = message.info
        self._give_way()
        self._around.emit(events.Ready(self.spec.id, child.ready_s - child.started_s, message.info))
        self._around.on_change(self)

    def _on_ready_timeout(self) -> None:
        if self.state is State.STARTING:
            self._doom("ready_timeout", f"was not ready after {self.spec.ready_timeout_s:g} s", dump=True)

    def _on_output(self) -> None:
        child = self._child()
        if child.output.read() < 0:  # it closed both; the process may go on in silence
            self._around.loop.forget(child.output)

    def _on_writable(self) -> None:
        channel = self._child().channel
        channel.flush()
        self._around.loop.want_write(channel, channel.unsent > 0)

    # keeping

    def _move(self, event: Event) -> None:
        follows = next_state(self.state, event)
        if follows is not self.state:
            self.state = follows
            self._since_s = self._around.clock.now()

    def _child(self) -> Child:
        assert self.child is not None, "only called while there is one"
        return self.child

    def _make_output(self, fd: int) -> Output:
        return Output(fd, self._log, lambda text: self._around.emit(events.Output(self.spec.id, text)))

    def _give_way(self) -> None:
        pid = None if self.child is None else self.child.pid
        if pid is None or not self.spec.nice:
            return
        level = starting_nice(self.spec.nice) if self.state is State.STARTING else self.spec.nice
        if not session_gives_way(pid, level):
            self._later(PRIORITY_RETRY_S, self._give_way)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append(self._around.loop.after(seconds, call))

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _bury(self, child: Child) -> None:
        self.child = None
        self._cancel_timers()
        self._around.loop.forget(child.channel)
        self._around.loop.forget(child.output)
        child.close()

    def _close(self) -> None:
        self._cancel_timers()
        self._log.close()
        self._listeners.close()
