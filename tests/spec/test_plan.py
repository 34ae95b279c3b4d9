"""Plans: complete, applied they give what was asked for, and say what they cost."""

import msgspec
import pytest
from hypothesis import given, settings

from muleteer.spec.plan import Change, Plan, diff, render_plan
from muleteer.spec.settings import (
    SETTINGS,
    BackendSettings,
    BackendSpec,
    Declared,
    EndpointSpec,
    Replicas,
    ServerSettings,
    Slo,
)
from muleteer.spec.traffic import Affinity, Shadow
from tests.spec.test_file import declarations


def backend(name="lr:v1", target="m.py:M", base_dir="/srv", **settings):
    return BackendSpec(name=name, target=target, base_dir=base_dir, settings=BackendSettings(**settings))


def endpoint(name="e", route="/e", traffic=None, **more):
    return EndpointSpec(name=name, route=route, traffic=traffic or {"lr:v1": 1.0}, **more)


def declared(backends=(), endpoints=(), **server):
    return Declared(backends=tuple(backends), endpoints=tuple(endpoints), server=ServerSettings(**server))


def apply(plan, old):
    """The declaration that `plan` makes of `old`, by nothing but its changes."""
    tree = msgspec.json.decode(msgspec.json.encode(old))
    things = {
        "backend": {b["name"]: b for b in tree["backends"]},
        "endpoint": {e["name"]: e for e in tree["endpoints"]},
    }
    for change in plan.changes:
        if change.kind == "add":
            things[change.what][change.name] = change.after
        elif change.kind == "remove":
            assert things[change.what].pop(change.name) == change.before
        else:
            thing = tree["server"] if change.what == "server" else things[change.what][change.name]
            thing = thing["settings"] if change.what == "backend" and change.field in SETTINGS else thing
            assert thing[change.field] == change.before
            thing[change.field] = change.after
    tree["backends"], tree["endpoints"] = list(things["backend"].values()), list(things["endpoint"].values())
    return msgspec.convert(tree, Declared)


def by_name(declared):
    return (declared.server, {b.name: b for b in declared.backends}, {e.name: e for e in declared.endpoints})


@settings(max_examples=60)
@given(declarations(), declarations())
def test_a_plan_applied_gives_what_was_declared(old, new):
    plan = diff(old, new)
    assert by_name(apply(plan, old)) == by_name(new)
    assert (plan.changes == ()) == (by_name(old) == by_name(new))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert render_plan(plan)


@pytest.mark.parametrize("name", [s.name for s in SETTINGS.values() if s.scope == "backend"])
def test_a_setting_costs_what_it_declares(name):
    setting = SETTINGS[name]
    value = (not setting.default) if setting.type is bool else 7
    (change,) = diff(declared([backend()]), declared([backend(**{name: value})])).changes
    assert (change.field, change.before, change.after, change.cost) == (name, setting.default, value, setting.cost)


def test_another_model_or_folder_is_a_replacement():
    old = declared([backend()])
    for new in (backend(target="n.py:M"), backend(base_dir="/new")):
        plan = diff(old, declared([new]))
        assert [change.cost for change in plan.changes] == ["replace"]
        assert plan.replaced() == {"lr:v1"}


def test_of_the_server_the_port_needs_a_restart_and_reload_does_not():
    plan = diff(declared(port=1, reload=False), declared(port=2, reload=True))
    assert {change.field: change.cost for change in plan.changes} == {"port": "restart", "reload": "live"}


def test_what_is_needed_comes_first_and_what_is_not_goes_last():
    old = declared([backend("a"), backend("b")], [endpoint("e", traffic={"a": 1.0}), endpoint("f", "/f", {"a": 1.0})])
    new = declared([backend("b"), backend("c")], [endpoint("e", traffic={"c": 1.0})])
    assert [(c.kind, c.what, c.name) for c in diff(old, new).changes] == [
        ("add", "backend", "c"),
        ("change", "endpoint", "e"),
        ("remove", "endpoint", "f"),
        ("remove", "backend", "a"),
    ]


def test_the_whole_rendering():
    old = declared(
        [backend(replicas=2), backend("old"), backend("grow"), backend("shrink", replicas=3), backend("slow")],
        [endpoint(traffic={"lr:v1": 90.0, "old": 10.0}), endpoint("gone", "/gone")],
        port=8000,
    )
    new = declared(
        [
            backend(target="m2.py:M", replicas=2, concurrency=4),
            backend("grow", replicas=4),
            backend("shrink", replicas=1),
            backend("slow", timeout=0.5, max_rss=2**30),
            backend("lr:v2", replicas=2),
        ],
        [
            endpoint(
                traffic={"lr:v1": 50.0, "lr:v2": 50.0},
                timeout=2.0,
                methods=("GET", "POST"),
                affinity=Affinity(source="header", name="x-session-id"),
                shadow=Shadow(backend="slow", percent=5.0),
            ),
            endpoint("new", "/new"),
        ],
        port=9000,
    )
    assert (
        render_plan(diff(old, new))
        == """\
~ backend lr:v1: replaces 2 replicas one by one, no request lost
    target: m.py:M → m2.py:M
    concurrency: 1 → 4
~ backend grow: starts 3 more
    replicas: 1 → 4
~ backend shrink: finishes the requests of 2 and stops them
    replicas: 3 → 1
~ backend slow: at once, no request lost
    timeout: 30s → 500ms
    max_rss: off → 1GiB
+ backend lr:v2: m.py:M, starts 2 replicas
~ endpoint e: at once, no request lost
    traffic: lr:v1=90 old=10 → lr:v1=50 lr:v2=50
    methods: POST → GET POST
    timeout: none → 2s
    affinity: none → source header, name x-session-id, replica false
    shadow: none → backend slow, percent 5, tolerance 1e-06
+ endpoint new: /new → lr:v1=1
- endpoint gone: /gone answers 404
- backend old: finishes its requests, then stops 1 replica
~ server: takes effect when the server is started again
    port: 8000 → 9000"""
    )


def test_replicas_that_may_vary_in_words():
    old = declared([backend("a"), backend("b", replicas=Replicas(1, 4)), backend("c", slo=Slo(0.1)), backend("d")])
    new = declared(
        [
            backend("a", replicas=Replicas(0, 8), concurrency=2),
            backend("b", replicas=2),
            backend("c"),
            backend("d", slo=Slo(0.1), replicas=1),
            backend("e", replicas=Replicas(0, 8)),
        ]
    )
    assert (
        render_plan(diff(old, new))
        == """\
~ backend a: replaces 1 replica one by one, no request lost, has 0 to 8 replicas, as many as its load needs
    replicas: 1 → 0:8
    concurrency: 1 → 2
~ backend b: has 2 replicas, whatever its load
    replicas: 1:4 → 2
~ backend c: has 1 replica, whatever its load
    slo: p99=100ms → none
~ backend d: at once, no request lost
    replicas: auto → 1
    slo: none → p99=100ms
+ backend e: m.py:M, starts 0 to 8 replicas, as many as its load needs"""
    )
    assert {change.field: change.cost for change in diff(old, new).of("backend", "change")} == {
        "replicas": "live",
        "slo": "live",
        "concurrency": "replace",
    }
    removed = diff(new, declared())
    assert "- backend e: finishes its requests, then stops its replicas" in render_plan(removed).split("\n")


def test_no_difference():
    assert render_plan(diff(Declared(), Declared())) == "nothing to change"


def test_a_reconfigured_backend_keeps_its_replicas():
    """No setting has this cost yet; the words for it are ready."""
    change = Change(kind="change", what="backend", name="b", field="concurrency", before=1, after=2, cost="reconfigure")
    assert render_plan(Plan((change,), {"b": (Replicas(3, 3), Replicas(3, 3))})).startswith(
        "~ backend b: tells 3 replicas, none is restarted\n"
    )
