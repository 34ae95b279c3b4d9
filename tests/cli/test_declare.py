"""Which route and name belong to which target."""

import pytest

from muleteer.base.errors import UsageErrors
from muleteer.cli.declare import declare
from muleteer.cli.flags import given_settings
from muleteer.cli.serve import read
from muleteer.spec.settings import BackendSettings, Replicas, ServerSettings

FANCY, SHOUT = "fancy_model.py:FancyModel", "fancy_model.py:shout"


def pairs(folder, targets, routes=(), names=()):
    declared, problems = declare(
        targets, routes, names, base_dir=folder.path, server=ServerSettings(), backend=BackendSettings()
    )
    assert problems == []
    targets_of = {each.name: each.target for each in declared.backends}
    return [(targets_of[name], each.route, name) for each in declared.endpoints for name in each.traffic]


def problems_of(folder, targets, routes=(), names=()):
    _, problems = declare(
        targets, routes, names, base_dir=folder.path, server=ServerSettings(), backend=BackendSettings()
    )
    return [str(problem) for problem in problems]


def test_defaults(folder):
    assert pairs(folder, [FANCY]) == [(FANCY, "/predict", "FancyModel")]
    assert pairs(folder, [FANCY, SHOUT]) == [(FANCY, "/fancymodel", "FancyModel"), (SHOUT, "/shout", "shout")]
    assert pairs(folder, [FANCY, FANCY], names=["a:v1", "A-2"]) == [(FANCY, "/a:v1", "a:v1"), (FANCY, "/a-2", "A-2")]


def test_the_kth_route_and_name_belong_to_the_kth_target(folder):
    assert pairs(folder, [FANCY, SHOUT], ["/", "/b/c"], ["one", "two"]) == [
        (FANCY, "/", "one"),
        (SHOUT, "/b/c", "two"),
    ]


@pytest.mark.parametrize(
    "order",
    [
        [FANCY, "--route", "/a", SHOUT, "--route", "/b"],
        ["--route", "/a", "--route", "/b", FANCY, SHOUT],
        [FANCY, SHOUT, "--route=/a", "--route=/b"],
        ["--replicas", "1", FANCY, "--route", "/a", "--reload", SHOUT, "--route", "/b"],
    ],
)
def test_flags_and_targets_may_stand_in_any_order(folder, order, monkeypatch):
    monkeypatch.chdir(folder.path)
    task, detach = read(order)
    declared = task.declared
    assert [(each.name, each.route) for each in declared.endpoints] == [("FancyModel", "/a"), ("shout", "/b")]
    assert not detach


def test_flags_must_fit_what_the_file_declares(folder, monkeypatch):
    monkeypatch.chdir(folder.path)
    (folder.path / "m.yaml").write_text(
        f"backends:\n  a: {{model: '{FANCY}', memory: 2GiB, replicas: {{min: 0, max: 8}}}}\n"
    )
    task, _ = read(["-c", "m.yaml", "--memory-budget", "2GiB"])
    assert task.declared.backends[0].settings.bounds == Replicas(0, 8)
    with pytest.raises(UsageErrors) as caught:
        read(["-c", "m.yaml", "--memory-budget", "1GiB", "--ray-address", "a:1"])
    assert [str(error) for error in caught.value.errors] == [
        "server.ray_address: engine local uses no Ray cluster: set engine to ray, or leave it out",
        "backends.a.memory: one replica with 2GiB does not fit into memory_budget 1GiB",
    ]


def test_flags_that_do_not_go_together_are_told_once_for_all_targets(folder, monkeypatch):
    monkeypatch.chdir(folder.path)
    with pytest.raises(UsageErrors) as caught:
        read([FANCY, SHOUT, "--batch-wait", "50ms", "--slo", "p99=50ms"])
    assert [str(error) for error in caught.value.errors] == [
        "--batch-wait: batch_wait 50ms is not below slo p99=50ms: waiting alone would miss it"
    ]


@pytest.mark.parametrize(
    "route",
    ["", "a", "/a b", "/a/", "//a", "/a//b", "/a?b", "/a#b", "/%41", "/../a", "/a/./b", "/é", "/livez", "/readyz"],
)
def test_routes_that_no_request_could_have_are_refused(folder, route):
    (problem,) = problems_of(folder, [FANCY], [route])
    assert problem.startswith((f"--route {route}", f"--route {route!r}"))


@pytest.mark.parametrize("route", ["/", "/a", "/A/b-c_d.e~f", "/v1/models/lr:v1"])
def test_routes_that_are_fine(folder, route):
    assert problems_of(folder, [FANCY], [route]) == []


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "é", "a" * 129])
def test_names_that_are_refused(folder, name):
    assert len(problems_of(folder, [FANCY], [], [name])) == 1


def test_what_stands_twice_is_refused(folder):
    assert problems_of(folder, [FANCY, SHOUT], ["/a", "/a"]) == ["two targets have the route /a: each needs its own"]
    assert problems_of(folder, [FANCY, SHOUT], ["/a", "/b"], ["x", "x"]) == [
        "two targets are called x: tell them apart with --name"
    ]
    assert problems_of(folder, [FANCY, SHOUT], [], ["x", "X"]) == ["two targets have the route /x: each needs its own"]


def test_settings_not_given_are_not_taken_for_given(folder, monkeypatch):
    from argparse import Namespace

    assert given_settings(Namespace(targets=[], setting_port="1")) == {"port": "1"}
