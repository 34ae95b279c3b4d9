"""Every setting a user may choose: one declaration each. Flags, environment names, `muleteer config`, the JSON Schema
and the table in docs/settings.md are derived from these two types; nothing is spelled a second time.

Sizes are bytes, times are seconds, as numbers; text forms (`100ms`, `64MiB`, `0:8`) are read by `spec.load`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from muleteer.base.limits import BATCH_MAX, REPLICAS_MAX
from muleteer.spec.setting import Setting, read_settings
from muleteer.spec.setting import about as _about
from muleteer.spec.traffic import Affinity, Override, Shadow

MIB = 1024 * 1024


class Replicas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many replicas there may be; how many there are now is found by their load. One end may be left out.

    Raises:
        ValueError: `min` is more than `max`.
    """

    min: Annotated[int, Meta(ge=0, le=REPLICAS_MAX)] = 1
    max: Annotated[int, Meta(ge=0, le=REPLICAS_MAX)] = REPLICAS_MAX

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")


class Slo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What callers may count on. `p99`: 99 % of the calls are answered within so many seconds, waiting included."""

    p99: Annotated[float, Meta(gt=0, le=3600)]


class BackendSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one model is run."""

    replicas: Annotated[
        Annotated[int, Meta(ge=0, le=REPLICAS_MAX)] | Replicas | None,
        _about(
            "processes, each with one copy of the model: a number (with 0 its calls are refused), or MIN:MAX, as many "
            "as its load needs (with MIN 0 it sleeps while nobody calls)",
            why="1, which works everywhere; with an slo as many as that needs, 1:1024",
            cost="live",
            kind="replicas",
            unset="auto",
        ),
    ] = None
    slo: Annotated[
        Slo | None,
        _about(
            "response time to keep: 99 % of the calls within p99, waiting included; sizes batches, and replicas if "
            "they may vary",
            why="only the user knows what callers bear",
            cost="live",
            kind="slo",
            unset="none",
        ),
    ] = None
    concurrency: Annotated[
        int,
        _about(
            "calls one replica works on at once (threads for a plain predict, tasks for an async one)",
            why="most frameworks are not thread-safe, so 1 is the only safe guess",
            cost="replace",
            ge=1,
            le=1024,
        ),
    ] = 1
    timeout: Annotated[
        float,
        _about(
            "deadline of a request, queueing included; a call that runs longer is hung and its replica is replaced",
            why="longer than almost every model, shorter than the patience of proxies (60 s)",
            cost="live",
            kind="seconds",
            gt=0,
            le=3600,
        ),
    ] = 30.0
    idempotent: Annotated[
        bool,
        _about(
            "predict is a pure function: a call whose replica died is run once more elsewhere",
            why="true of almost every model, and it makes a dead replica cost no request",
            cost="live",
        ),
    ] = True
    max_body: Annotated[
        int,
        _about(
            "largest request body, after decompression",
            why="fits images and batches; bounds the memory of a request",
            cost="replace",
            kind="bytes",
            ge=1,
            le=2**31 - 1,
        ),
    ] = 64 * MIB
    expected: Annotated[
        Annotated[float, Meta(gt=0, le=3600)] | None,
        _about(
            "expected service time of one call, used for admission until 50 calls were measured",
            why="measured otherwise",
            cost="live",
            kind="seconds",
        ),
    ] = None
    max_rss: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _about(
            "resident memory above which a replica is replaced (a new one is ready first)",
            why="off: only the user knows what is a leak",
            cost="live",
            kind="bytes",
        ),
    ] = None
    load_timeout: Annotated[
        float,
        _about(
            "time a replica may take from start to ready, warm-up included",
            why="large models load for minutes; for ever is a hang",
            cost="live",
            kind="seconds",
            gt=0,
            le=86400,
        ),
    ] = 300.0
    batch: Annotated[
        Literal["auto", "off", "list", "stack"],
        _about(
            "calls answered together: auto by predict_batch if the model has it, list by a predict that takes a list "
            "of inputs, stack by one that takes them stacked along a new first axis (numpy), off one by one",
            why="a class that has predict_batch means it to be used",
            cost="replace",
        ),
    ] = "auto"
    batch_max: Annotated[
        Annotated[int, Meta(ge=1, le=BATCH_MAX)] | None,
        _about(
            "most calls in one batch, if bytes and deadlines allow them",
            why="as many as measuring shows to pay, at most the limit batch_max",
            cost="live",
            unset="auto",
        ),
    ] = None
    batch_wait: Annotated[
        float,
        _about(
            "time a call may wait for others to share its batch",
            why="0: a busy replica lets calls gather anyway, an idle one should start",
            cost="live",
            kind="seconds",
            ge=0,
            le=60,
        ),
    ] = 0.0
    cpus: Annotated[
        Annotated[float, Meta(gt=0, le=4096)] | None,
        _about(
            "cores of one replica: reserved, and the threads of its numeric libraries",
            why="as measured; until then its share of the machine",
            cost="replace",
            unset="auto",
        ),
    ] = None
    memory: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _about(
            "memory reserved for one replica until it was measured",
            why="what its model needed before, else a cautious guess",
            cost="live",
            kind="bytes",
            unset="auto",
        ),
    ] = None
    gpus: Annotated[
        float,
        _about(
            "GPUs of one replica: a whole number, or a part of one below 1",
            why="most models need none",
            cost="replace",
            kind="parts",
            ge=0,
            le=1024,
        ),
    ] = 0.0
    ray: Annotated[
        str | None,
        _about(
            "what Ray is told beyond cpus, memory and gpus: resources, placement, node, runtime_env",
            why="spread over the nodes, with what is installed there",
            cost="replace",
            kind="ray",
            unset="none",
        ),
    ] = None
    share: Annotated[
        Literal["none", "preload"],
        _about(
            "preload: replicas are forked from a process that has loaded the model, and share its memory",
            why="not every library survives a fork",
            cost="replace",
        ),
    ] = "none"
    weight: Annotated[
        float,
        _about(
            "share of the machine in proportion to that of others, when not all fits",
            why="all backends are alike until somebody says otherwise",
            cost="live",
            gt=0,
            le=1000,
        ),
    ] = 1.0
    idle: Annotated[
        Annotated[float, Meta(ge=0, le=604800)] | None,
        _about(
            "how long the last replica is kept without calls before the backend sleeps, where 0 replicas are allowed",
            why="derived from what a start costs its callers",
            cost="live",
            kind="seconds",
            unset="auto",
        ),
    ] = None

    @property
    def bounds(self) -> Replicas:
        """How many replicas there may be, whatever form that was declared in. A fixed number is both bounds."""
        match self.replicas:
            case None:
                return Replicas(1, 1 if self.slo is None else REPLICAS_MAX)
            case Replicas():
                return self.replicas
        return Replicas(self.replicas, self.replicas)

    @property
    def elastic(self) -> bool:
        """Whether the number of replicas may vary."""
        bounds = self.bounds
        return bounds.min != bounds.max


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the server as a whole runs."""

    host: Annotated[
        str,
        _about("address to listen on", why="this machine only; 0.0.0.0 opens it to the network", cost="restart"),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        _about("TCP port; 0 picks a free one", why="the port of the article", cost="restart", ge=0, le=65535),
    ] = 8000
    run_dir: Annotated[
        str,
        _about(
            "directory of sockets, lock, logs and the routing snapshot; one server each",
            why="$XDG_RUNTIME_DIR/muleteer, else /tmp/muleteer-UID: private to the user",
            cost="restart",
        ),
    ] = ""
    state_dir: Annotated[
        str,
        _about(
            "directory of what was declared, with its history; one server each",
            why="$XDG_STATE_HOME/muleteer/NAME, else ~/.local/state/muleteer/NAME, NAME from the run directory's path",
            cost="restart",
        ),
    ] = ""
    admin_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        _about(
            "TCP port of the admin API; 0 picks a free one; needs an admin token",
            why="off: the socket in the run directory is enough on one machine, and nobody else can open it",
            cost="restart",
        ),
    ] = None
    admin_host: Annotated[
        str,
        _about("address of the admin API, if it has a port", why="this machine only", cost="restart"),
    ] = "127.0.0.1"
    admin_token: Annotated[
        Annotated[str, Meta(min_length=16, max_length=1024)] | None,
        _about(
            "what a client of the admin API must show on TCP; rather in the environment than a flag, never in a file",
            why="nobody can guess one that nobody chose",
            cost="restart",
            secret=True,
        ),
    ] = None
    drain_delay: Annotated[
        float,
        _about(
            "after SIGTERM, time to answer 503 on /readyz and still accept, before the port closes",
            why="0 on a laptop; behind a load balancer, a little over its probe period",
            cost="restart",
            kind="seconds",
            ge=0,
            le=3600,
        ),
    ] = 0.0
    grace: Annotated[
        float,
        _about(
            "time for requests in flight to finish when stopping",
            why="under the 30 s that Kubernetes gives",
            cost="restart",
            kind="seconds",
            ge=0,
            le=3600,
        ),
    ] = 25.0
    debug: Annotated[
        bool,
        _about("send the model's traceback to the client", why="tracebacks leak code and data", cost="restart"),
    ] = False
    reload: Annotated[
        bool,
        _about("replace replicas when a source file of their model changes", why="for development", cost="live"),
    ] = False
    cpu_budget: Annotated[
        Annotated[float, Meta(gt=0, le=65536)] | None,
        _about(
            "cores that all replicas may use together",
            why="those of the machine, or of its container",
            cost="restart",
            unset="auto",
        ),
    ] = None
    memory_budget: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        _about(
            "memory that the whole server may use, its own processes included",
            why="what the machine, or its container, has left",
            cost="restart",
            kind="bytes",
            unset="auto",
        ),
    ] = None
    gpu_devices: Annotated[
        str | None,
        _about(
            "GPUs that replicas may use, by number, as 0,1",
            why="those of the machine",
            cost="restart",
            kind="devices",
            unset="auto",
        ),
    ] = None
    engine: Annotated[
        Literal["local", "ray"],
        _about("where replicas live: local processes, or actors of a Ray cluster", why="one machine", cost="restart"),
    ] = "local"
    ray_address: Annotated[
        str | None,
        _about(
            "of the Ray cluster, with engine ray",
            why="as Ray finds one: RAY_ADDRESS, else one that runs on this machine",
            cost="restart",
            unset="auto",
        ),
    ] = None
    gateways: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | Literal["every_node"],
        _about(
            "processes that answer HTTP; every_node: one on each node of a Ray cluster",
            why="the model is slower than HTTP, nearly always",
            cost="restart",
        ),
    ] = 1


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (*read_settings("backend", BackendSettings), *read_settings("server", ServerSettings))
}


class BackendSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One declared backend: a name, a model, how to run it. A relative file TARGET starts from `base_dir`."""

    name: str
    target: str
    base_dir: str
    settings: BackendSettings = BackendSettings()


class EndpointSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One declared endpoint: a route, its methods, and the traffic weights over backends.

    `timeout`: deadline in seconds of its requests; None: that of the slowest backend in its traffic.
    """

    name: str
    route: str
    traffic: dict[str, float]
    methods: tuple[str, ...] = ("POST",)
    timeout: float | None = None
    affinity: Affinity | None = None
    shadow: Shadow | None = None
    override: Override | None = None


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that was declared for one server."""

    server: ServerSettings = ServerSettings()
    backends: tuple[BackendSpec, ...] = ()
    endpoints: tuple[EndpointSpec, ...] = ()
