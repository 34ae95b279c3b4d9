"""What does not go together is refused in a sentence, and what does is not."""

from pathlib import Path

import pytest

from muleteer.base.errors import SpecError
from muleteer.spec.file import parse_text
from muleteer.spec.fit import misfits
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared, Replicas, ServerSettings, Slo
from muleteer.spec.shape import ShapeError, read_backend


def declared(server=None, **settings):
    backend = BackendSpec(name="b", target="m.py:M", base_dir="/", settings=BackendSettings(**settings))
    return Declared(server=ServerSettings(**server or {}), backends=(backend,))


MISFITS = {
    "batch_wait: 2s, timeout: 2s": "backends.b.batch_wait: batch_wait 2s is not below timeout 2s: a call would wait until it is too late",
    "slo: {p99: 30s}": "backends.b.slo: slo p99=30s is not below timeout 30s: a call as late as that is ended first",
    "slo: {p99: 10ms}, batch_wait: 10ms": "backends.b.batch_wait: batch_wait 10ms is not below slo p99=10ms: waiting alone would miss it",
    "memory: 2GiB": "backends.b.memory: one replica with 2GiB does not fit into memory_budget 1GiB",
    "gpus: 3": "backends.b.gpus: one replica with 3 GPUs needs more than gpu_devices 0,1 has",
}


@pytest.mark.parametrize(("rest", "message"), MISFITS.items())
def test_settings_of_a_backend_that_do_not_go_together(rest, message):
    text = f"server: {{memory_budget: 1GiB, gpu_devices: '0,1'}}\nbackends:\n  b:\n    model: m.py:M\n    {rest.replace(', ', chr(10) + '    ')}\n"
    with pytest.raises(SpecError) as caught:
        parse_text(text, source="f.yaml", base_dir=Path("/"), check_files=False)
    line = next(
        i
        for i, part in enumerate(text.split("\n"), 1)
        if part.strip().startswith(message.split(":")[0].split(".")[-1] + ":")
    )
    assert str(caught.value) == f"f.yaml:{line}: {message}"


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (
            "{ray_address: 'a:6379'}",
            "server.ray_address: engine local uses no Ray cluster: set engine to ray, or leave it out",
        ),
        (
            "{gateways: every_node}",
            "server.gateways: every_node needs engine ray: engine local has one node; give a number",
        ),
    ],
)
def test_settings_of_the_server_that_do_not_go_together(server, message):
    with pytest.raises(SpecError) as caught:
        parse_text(f"backends: {{}}\nserver: {server}\n", source="f.yaml", base_dir=Path("/"))
    assert str(caught.value) == f"f.yaml:2: {message}"
    with_ray = server.replace("{", "{engine: ray, ")
    assert misfits(parse_text(f"server: {with_ray}\n", source="f.yaml", base_dir=Path("/"))) == []


@pytest.mark.parametrize(
    "good",
    [
        declared(),
        declared(replicas=3, slo=Slo(0.1)),  # the target shapes batches, and is reported
        declared(replicas=Replicas(0, 8), slo=Slo(29.0), batch_wait=1.0),
        declared({"memory_budget": 2**30, "gpu_devices": "0"}, memory=2**30, gpus=1.0),
        declared({"engine": "ray", "ray_address": "a", "gateways": "every_node"}),
        declared(memory=2**60, gpus=1000.0),  # nobody has said what the machine has
    ],
)
def test_what_goes_together(good):
    assert misfits(good) == []


def test_a_mistyped_setting_is_the_only_thing_that_is_reported():
    with pytest.raises(ShapeError) as caught:
        read_backend("b", {"model": "m.py:M", "timeout": "x", "slo": {"p99": "40s"}}, base_dir="/", check_files=False)
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == ["backends.b.timeout"]


def test_through_the_admin_api_one_backend_is_checked_by_itself():
    with pytest.raises(ShapeError) as caught:
        read_backend("b", {"model": "m.py:M", "slo": {"p99": "40s"}}, base_dir="/", check_files=False)
    assert caught.value.problems == [MISFITS["slo: {p99: 30s}"].replace("p99=30s", "p99=40s")]


def test_replicas_with_a_gpu_are_not_forked_from_one_another():
    (misfit,) = misfits(declared(share="preload", gpus=0.5))
    assert misfit.path == "backends.b.share"
    assert misfit.message.startswith("preload does not go with gpus 0.5: ")
    assert misfit.message.endswith("a CUDA context does not survive a fork; use share: none")


def test_replicas_on_a_cluster_are_not_forked_from_one_another():
    (misfit,) = misfits(declared(server={"engine": "ray"}, share="preload"))
    assert misfit.path == "backends.b.share"
    assert misfit.message.startswith("preload does not go with engine ray: ")
    assert misfit.message.endswith("; use share: none")
    assert misfits(declared(share="preload")) == []


@pytest.mark.parametrize("given", [{"cpu_budget": 2.0}, {"memory_budget": 1 << 30}, {"gpu_devices": "0"}])
def test_a_budget_of_this_machine_says_nothing_about_a_cluster(given):
    (misfit,) = misfits(Declared(server=ServerSettings(engine="ray", **given)))
    assert str(misfit) == f"server.{next(iter(given))}: engine ray has what its cluster has free: leave it out"
