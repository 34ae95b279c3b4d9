"""What was declared beyond what the machine has is told."""

from __future__ import annotations

from muleteer.control.beyond import too_many_cores, too_much_memory
from muleteer.engine.port import Capacity
from muleteer.spec.settings import BackendSettings, BackendSpec
from tests.control.rig import asynchronous, running
from tests.control.test_admin import backend

HERE = Capacity(cpus=2.0, memory_bytes=8 << 30)


def spec(name: str, cpus: float | None) -> BackendSpec:
    return BackendSpec(name=name, target="m.py:M", base_dir="/", settings=BackendSettings(cpus=cpus))


def test_more_memory_than_there_is() -> None:
    assert too_much_memory(None, HERE) is None
    assert too_much_memory(8 << 30, HERE) is None
    assert too_much_memory(900 << 30, HERE) == "memory_budget 900GiB is more than there is: 8GiB count"
    assert too_much_memory(900 << 30, Capacity(cpus=2.0, memory_bytes=None)) is None


def test_more_cores_than_there_are() -> None:
    assert too_many_cores([spec("a", None), spec("b", 2.0)], HERE) is None
    told = too_many_cores([spec("a", 64), spec("b", 2.5), spec("c", 1)], HERE)
    assert told is not None
    assert told.startswith("one replica is to have more cores than the 2 there are: a 64, b 2.5; ")
    cluster = Capacity(cpus=2.0, memory_bytes=None, available_cpus=2.0)
    assert too_many_cores([spec("a", 64)], cluster) is None
    assert "a 9, b 9, c 9 and 2 more;" in str(too_many_cores([spec(name, 9) for name in "abcde"], HERE))


@asynchronous
async def test_it_is_a_problem_in_status_until_it_is_mended() -> None:
    async with running() as rig:
        await rig.done("PUT", "/v1/backends/b?create=1", backend(rig, cpus=64))
        await rig.until(lambda: "b 64" in rig.controller.statistics().problems.get("declared cores", ""))
        await rig.done("PUT", "/v1/backends/b", backend(rig, cpus=4))
        await rig.until(lambda: rig.controller.statistics().problems == {})
