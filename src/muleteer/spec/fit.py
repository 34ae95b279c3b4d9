"""Which settings do not go together, and why. Pure; must not know where they were written."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from muleteer.spec.checks import join
from muleteer.spec.forms import count_devices, format_slo
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared, ServerSettings
from muleteer.spec.units import format_bytes, format_seconds


class Misfit(msgspec.Struct, frozen=True):
    """One setting that does not fit another. `path`: as in muleteer.yaml, `backends.b.slo`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def misfits(declared: Declared) -> list[Misfit]:
    """Everything in `declared` that does not go together."""
    found = list(misfits_of_server(declared.server))
    for backend in declared.backends:
        found += misfits_of_backend(backend.name, backend.settings)
        found += misfits_between(backend, declared.server)
    return found


def misfits_of_backend(name: str, settings: BackendSettings) -> Iterator[Misfit]:
    """What does not go together in one backend."""
    path = join("backends", name)
    timeout = f"timeout {format_seconds(settings.timeout)}"
    wait = f"batch_wait {format_seconds(settings.batch_wait)}"
    if settings.batch_wait >= settings.timeout:
        yield Misfit(f"{path}.batch_wait", f"{wait} is not below {timeout}: a call would wait until it is too late")
    if settings.share == "preload" and settings.gpus:
        why = "replicas are forked from a process that has loaded the model, and a CUDA context does not survive a fork"
        yield Misfit(f"{path}.share", f"preload does not go with gpus {settings.gpus:g}: {why}; use share: none")
    if settings.slo is None:
        return
    slo = f"slo {format_slo(settings.slo)}"
    if settings.slo.p99 >= settings.timeout:
        yield Misfit(f"{path}.slo", f"{slo} is not below {timeout}: a call as late as that is ended first")
    if settings.batch_wait >= settings.slo.p99:
        yield Misfit(f"{path}.batch_wait", f"{wait} is not below {slo}: waiting alone would miss it")


def misfits_of_server(server: ServerSettings) -> Iterator[Misfit]:
    """What does not go together in the settings of the server."""
    if server.engine == "ray":
        for name in ("cpu_budget", "memory_budget", "gpu_devices"):
            if getattr(server, name) is not None:
                yield Misfit(f"server.{name}", "engine ray has what its cluster has free: leave it out")
        return
    if server.ray_address is not None:
        yield Misfit("server.ray_address", "engine local uses no Ray cluster: set engine to ray, or leave it out")
    if server.gateways == "every_node":
        yield Misfit("server.gateways", "every_node needs engine ray: engine local has one node; give a number")


def misfits_between(backend: BackendSpec, server: ServerSettings) -> Iterator[Misfit]:
    """What a backend asks for, and the server will never have."""
    path, settings = join("backends", backend.name), backend.settings
    if settings.share == "preload" and server.engine == "ray":
        why = "each replica is an actor, on a node of Ray's choice, and none is forked from another"
        yield Misfit(f"{path}.share", f"preload does not go with engine ray: {why}; use share: none")
    if settings.memory is not None and server.memory_budget is not None and settings.memory > server.memory_budget:
        needs, has = format_bytes(settings.memory), format_bytes(server.memory_budget)
        yield Misfit(f"{path}.memory", f"one replica with {needs} does not fit into memory_budget {has}")
    if server.gpu_devices is not None and settings.gpus > count_devices(server.gpu_devices):
        message = f"one replica with {settings.gpus:g} GPUs needs more than gpu_devices {server.gpu_devices} has"
        yield Misfit(f"{path}.gpus", message)
