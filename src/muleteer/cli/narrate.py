"""Tells the person in the foreground what happens: load stages with times, readiness, deaths, output. Decides when a
start has failed for good. Must not know where its lines go, nor how processes are started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from muleteer.base.clock import Clock
from muleteer.base.errors import OwnProcessError, StartupFailedError
from muleteer.base.limits import FAILED_STARTS_MAX
from muleteer.cli.curl import curl_line
from muleteer.cli.exits import cannot_run, cannot_serve, exit_details, exit_text
from muleteer.cli.output import Paint, harmless
from muleteer.spec.forms import describe_replicas
from muleteer.spec.settings import Declared, EndpointSpec
from muleteer.supervise import events
from muleteer.supervise.process import LastExit

NOT_OURS_TO_RETRY: Final = frozenset(
    {"exited", "killed", "oom_killed", "hung", "ready_timeout", "stopped", "not_started", "not_forked"}
)
"""Reasons that another start may mend. Every other reason is the replica's own word (`import_error`, `target_missing`,
`no_predict`, `constructor_raised`, `warm_up_failed`, …): the same code and the same input would fail again."""


class Narrator:
    """Turns events of the supervisor into lines.

    Args:
        declared: what is served.
        url: where, without a route.
        say: takes one line.
        on_settled: called once, when every declared replica is ready or FAILED.
        on_failure: called once, when this start cannot succeed; `failure` says why.
        forgiving: no model that fails makes the start fail.

    Attributes:
        failure: why this start cannot succeed; None while it may, or did.
        left_out: backends that are not served, as others hold the room they would need, and why.
    """

    def __init__(
        self,
        declared: Declared,
        url: str,
        *,
        clock: Clock,
        paint: Paint,
        say: Callable[[str], None],
        on_settled: Callable[[], None],
        on_failure: Callable[[], None],
        forgiving: bool = False,
    ) -> None:
        self._declared = declared
        self._url = url
        self._clock = clock
        self._paint = paint
        self._say = say
        self._on_settled = on_settled
        self._on_failure = on_failure
        self._forgiving = forgiving or declared.server.reload
        self._began = clock.now()
        self._width = max([len("controller"), *(len(each.name) + 2 for each in declared.backends)])
        # replicas on a Ray cluster are no processes of the supervisor: whether they serve is asked of the gateway
        elsewhere = declared.server.engine != "local"
        self._elsewhere = elsewhere
        self._waiting = {each.name: 0 if elsewhere else each.settings.bounds.min for each in declared.backends}
        self._backend_of: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._settled: set[str] = set()  # replicas that were ready once, or FAILED
        self._infos: dict[str, Mapping[str, object]] = {}  # backend → what its first ready replica said
        self._own_ends: dict[str, LastExit] = {}  # of processes of ours: how each ended last
        self._own_ready: set[str] = set()  # those that were ready once
        self._nothing_awaited = not any(self._waiting.values())
        self._starting_up = True
        self._stopping = False
        self.failure: StartupFailedError | OwnProcessError | None = None

    def __call__(self, event: events.Event) -> None:
        """One event of the supervisor."""
        _TELL[type(event)](self, event)

    @property
    def waits_for_all(self) -> bool:
        """Whether a replica that does not start is told by the controller alone, and will fail this start."""
        return self._elsewhere and not self._forgiving

    def banner(self, version: str, run_dir: str, pid: int) -> None:
        """The first lines: who we are and what is declared."""
        self._say(f"{self._paint(f'muleteer {version}', 'bold')}  pid {pid}  run directory {run_dir}")
        replicas = {each.name: describe_replicas(each.settings.bounds) for each in self._declared.backends}
        targets = {each.name: each.target for each in self._declared.backends}
        for endpoint in self._declared.endpoints:
            for name in endpoint.traffic:
                self._say(f"  {self._url}{endpoint.route}  ←  {targets[name]} ({name}, {replicas[name]})")
        self._say("")

    def serving(self, commands: str) -> None:
        """The gateway answers: what to paste. `commands`: flags that the other verbs need to find this server."""
        self._starting_up = False
        seconds = self._clock.now() - self._began
        self._say("")
        ready = self._paint(f"ready after {seconds:.2f} s", "green")
        if self._declared.endpoints:
            self._say(f"{ready}, try:")
            self._say("")
            for endpoint in self._declared.endpoints:
                self._say(f"  {self._curl(endpoint)}")
        else:
            self._say(f"{ready}, with nothing declared; to declare something: muleteer apply FILE{commands}")
        self._say("")
        self._say(f"In another shell: muleteer status{commands} · muleteer logs -f{commands} · muleteer stop{commands}")

    def _curl(self, endpoint: EndpointSpec) -> str:
        url = self._url + endpoint.route
        info = next((self._infos[name] for name in endpoint.traffic if name in self._infos), None)
        if info is not None or self._elsewhere:
            return curl_line(url, info or {})
        unmanned = self.unmanned()
        wanted = [each for each in self._declared.backends if each.name in endpoint.traffic]
        if any(each.name in unmanned and each.settings.elastic for each in wanted):
            return f"# {url} sleeps: the first call starts its model"
        if endpoint.traffic.keys() <= self.left_out.keys():
            return f"# {url} is not served: there is no room for its model"
        if endpoint.traffic.keys() <= unmanned:
            return f"# {url} is not served: its model has no replicas"
        return f"# {url} is not served: its model FAILED"

    def unmanned(self) -> set[str]:
        """Backends that want no replica yet."""
        return {each.name for each in self._declared.backends if not each.settings.bounds.min}

    def _line(self, id: str, text: str, colour: str = "") -> None:
        text = harmless(text)
        at = self._paint(f"{self._clock.now() - self._began:7.2f} s", "dim")
        self._say(f"{at}  {id:<{self._width}}  {self._paint(text, colour) if colour else text}")

    def _started(self, event: events.Started) -> None:
        if "backend" in event.labels:
            self._backend_of[event.id] = event.labels["backend"]
        if event.restarts:
            again = "is forked again" if event.pid is None else f"started again, pid {event.pid}"
            self._line(event.id, again, "yellow")

    def _stage(self, event: events.Stage) -> None:
        self._line(event.id, f"{event.stage} took {seconds_text(event.seconds)}")

    def _ready(self, event: events.Ready) -> None:
        self._line(event.id, f"ready, {seconds_text(event.seconds)} after its start", "green")
        backend = self._backend_of.get(event.id)
        if backend is not None:
            self._infos.setdefault(backend, MappingProxyType(event.info))
            self.left_out.pop(backend, None)
            if self._settle(event.id, backend):
                self._on_settled()
            return
        self._own_ready.add(event.id)
        if self._nothing_awaited:  # no replica will be ready later, so our own processes count
            self._nothing_awaited = False
            self._on_settled()

    def _settle(self, id: str, backend: str) -> bool:
        """One more replica is ready, or FAILED for good; whether it was the last that was waited for."""
        if id in self._settled or not self._starting_up or backend not in self._waiting:
            return False
        self._settled.add(id)
        self._waiting[backend] -= 1
        return self._nobody_is_awaited

    @property
    def _nobody_is_awaited(self) -> bool:
        return self.failure is None and all(left <= 0 for left in self._waiting.values())

    def _exited(self, event: events.Exited) -> None:
        if self._stopping:
            return
        self._line(event.id, exit_text(event.last_exit), "red")
        backend = self._backend_of.get(event.id)
        if backend is None:
            self._own_ends[event.id] = event.last_exit
        first_start = backend is not None and event.id not in self._settled and not event.last_exit.was_ready
        own_word = event.last_exit.reason not in NOT_OURS_TO_RETRY
        if first_start and self._starting_up and own_word and not self._forgiving:
            self._fail(backend or "", event.last_exit)
        elif self._declared.server.reload and first_start:
            for line in exit_details(event.last_exit):
                self._line(event.id, line)
            self._line(event.id, "a change of its file is tried at once", "yellow")

    def _fail(self, backend: str, last_exit: LastExit) -> None:
        if self.failure is None:
            target = next((each.target for each in self._declared.backends if each.name == backend), backend)
            self.failure = cannot_serve(target, last_exit)
            self._on_failure()

    def _backoff(self, event: events.Backoff) -> None:
        if not self._stopping and event.pause_s > 0.01:
            self._line(event.id, f"starts again in {event.pause_s:.1f} s", "yellow")
        hopeless = event.failed_starts >= FAILED_STARTS_MAX and event.id not in self._own_ready
        if hopeless and self._starting_up and event.id in self._own_ends and self.failure is None:
            self.failure = cannot_run(event.id, event.failed_starts, self._own_ends[event.id])
            self._on_failure()

    def _failed(self, event: events.Failed) -> None:
        self._line(event.id, f"FAILED: {event.failed_starts} starts in a row did not become ready", "red")
        backend = self._backend_of.get(event.id)
        if backend is None or self._declared.server.reload or not self._settle(event.id, backend):
            return
        if self._infos or self._forgiving:
            self._on_settled()
        else:
            self._fail(backend, event.last_exit)

    def _stopped(self, event: events.Stopped) -> None:
        self._backend_of.pop(event.id, None)

    def _notice(self, event: events.Notice) -> None:
        if not event.unservable:
            self._line(event.id, event.text, "cyan")
            return
        if event.crowded:
            self._crowded(event)
            return
        first, *_ = event.text.split("\n")
        self._line(event.id, f"{event.unservable} cannot be served: {first}", "red")
        if not self._starting_up or self._waiting.pop(event.unservable, None) is None:
            return
        if not self._forgiving:
            self._fail(event.unservable, LastExit(reason=event.reason, message=event.text))
        elif self._nobody_is_awaited:
            self._on_settled()

    def _crowded(self, event: events.Notice) -> None:
        """Fewer of its replicas have room than were declared, perhaps none. The others serve on."""
        name = event.unservable
        self._line(event.id, f"{name}: {event.text}", "yellow" if name in self._infos else "red")
        if not self._starting_up or self._waiting.get(name, 0) <= 0:
            return
        del self._waiting[name]
        if name not in self._infos:
            self.left_out[name] = event.text
        if self._nobody_is_awaited:
            self._on_settled()

    def _output(self, event: events.Output) -> None:
        self._say(f"{self._paint(event.id, 'cyan')} | {harmless(event.text)}")

    def _shut_down(self, event: events.ShutDown) -> None:
        self._stopping = True
        if event.quick:
            text = "ending everything now"
        elif self.failure is not None:
            text = "stopping everything"
        else:
            text = "finishing what is in flight; once more ends it at once"
        self._line("muleteer", f"{event.cause}: {text}", "yellow")


_TELL: Final[Mapping[type, Callable[..., None]]] = {
    events.Started: Narrator._started,
    events.Stage: Narrator._stage,
    events.Ready: Narrator._ready,
    events.Exited: Narrator._exited,
    events.Backoff: Narrator._backoff,
    events.Failed: Narrator._failed,
    events.Stopped: Narrator._stopped,
    events.Notice: Narrator._notice,
    events.Output: Narrator._output,
    events.ShutDown: Narrator._shut_down,
}


def seconds_text(seconds: float) -> str:
    """`52 ms`, `6.40 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
