"""Every setting a user may choose: one declaration each. Flags, environment names, `muleteer config`, the JSON Schema
and the table in docs/settings.md are derived from these two types; nothing is spelled a second time.

Sizes are bytes, times are seconds, as numbers; text forms (`100ms`, `64MiB`) are read by `spec.units`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from muleteer.spec.traffic import Affinity, Override, Shadow

Cost = Literal["live", "reconfigure", "replace", "restart"]
"""What changing a setting costs: nothing · a message to running replicas · new replicas (surge) · a new server."""

MIB = 1024 * 1024
_BOUNDS = ("ge", "gt", "le", "min_length", "max_length")


def _about(description: str, *, why: str, cost: Cost, kind: str = "", secret: bool = False, **bounds: Any) -> Meta:
    extra = {"why": why, "cost": cost, "kind": kind, "secret": secret}
    return Meta(description=description, extra=extra, **bounds)


class BackendSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one model is run. `kind` in the metadata says how text is read: `seconds`, `bytes` or plain."""

    replicas: Annotated[
        int,
        _about(
            "processes, each with one copy of the model; with 0 its calls are refused",
            why="one works everywhere; scale when measured",
            cost="live",
            ge=0,
            le=1024,
        ),
    ] = 1
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


class Setting(msgspec.Struct, frozen=True):
    """One setting, read off its declaration.

    Attributes:
        optional: None is a value.
        bounds: any of `ge`, `gt`, `le`, and of a text `min_length`, `max_length`.
        secret: never shown, stored or read from a file.
    """

    name: str
    scope: Literal["backend", "server"]
    type: type
    optional: bool
    default: Any
    description: str
    why: str
    cost: Cost
    kind: str
    bounds: dict[str, float]
    secret: bool = False

    @property
    def flag(self) -> str:
        """`--max-body`."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """`MULETEER_MAX_BODY`."""
        return "MULETEER_" + self.name.upper()


def _settings(scope: Literal["backend", "server"], struct: type[msgspec.Struct]) -> Iterator[Setting]:
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        base, meta = get_args(hints[field.name])
        optional = type(None) in get_args(base)
        bounded = meta
        if optional:  # msgspec wants bounds of a union at its member
            base = next(member for member in get_args(base) if member is not type(None))
            base, bounded = get_args(base)
        yield Setting(
            name=field.name,
            scope=scope,
            type=base,
            optional=optional,
            default=field.default,
            description=meta.description,
            bounds={key: getattr(bounded, key) for key in _BOUNDS if getattr(bounded, key) is not None},
            **meta.extra,
        )


SETTINGS: dict[str, Setting] = {
    setting.name: setting for setting in (*_settings("backend", BackendSettings), *_settings("server", ServerSettings))
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
