"""What a rate within a target needs: replicas, cores, memory, batches, and what would be enough where that is too much."""

import pytest

from muleteer.control.capacity_plan import GATEWAY_RATE, Question, break_rate, fit_curve, plan, yaml_text
from muleteer.control.queueing import Service
from muleteer.control.sizing import BatchCurve, Workload, needed
from muleteer.spec.settings import BackendSettings, BackendSpec, Replicas, Slo

EVEN = Service(((0.020, 0.95), (0.040, 0.05)))
MIB = 2**20


def workload(**changes):
    return Workload(**{"service": EVEN, "startup_s": 2.0, "memory_bytes": 100 * MIB, **changes})


def test_a_plan_answers_in_replicas_memory_and_cores():
    found = plan(Question(300, 0.1), workload(cpu_s=0.01), first_bytes=150 * MIB)
    assert found.replicas == needed(workload(), 300, 0.1).replicas
    assert found.memory_bytes == (150 + 100 * (found.replicas - 1)) * MIB
    assert found.cores == pytest.approx(3.0, rel=0.02)
    assert 4 <= found.cores_needed <= 5
    assert found.p50_s < found.p99_s <= 0.1
    assert (found.problems, found.batch_max) == ((), 1)


def test_more_cores_than_replicas_can_use_are_not_asked_for():
    found = plan(Question(30, 0.1), workload(cpu_s=0.021))
    assert found.cores_needed <= found.replicas + 1
    assert plan(Question(300, 0.1), workload()).cores_needed == 1


@pytest.mark.parametrize("cores", [4, 5, 6, 8, 16])
def test_fewer_cores_never_need_fewer_replicas_nor_answer_sooner(cores):
    busy = workload(cpu_s=0.012)
    few, many = (plan(Question(300, 0.1, cores=each), busy) for each in (cores, 2 * cores))
    assert not many.problems
    if not few.problems:
        assert few.replicas >= many.replicas
        assert few.p99_s >= many.p99_s - 1e-9 or few.replicas > many.replicas


def test_the_rate_that_breaks_it_grows_with_each_replica_and_is_met_just_below():
    found = plan(Question(300, 0.1), workload())
    rates = [each.rate for each in found.breaks]
    assert [each.replicas for each in found.breaks] == [found.replicas + change for change in (-1, 0, 1)]
    assert rates == sorted(rates)
    assert rates[0] < 330
    assert rates[1] > 300
    assert plan(Question(rates[1] * 0.9, 0.1), workload()).replicas <= found.replicas


def test_on_shared_cores_one_more_gains_nothing():
    busy = workload(cpu_s=0.021)
    rates = [break_rate(busy, count, 0.1, 2) for count in (1, 2, 3, 4)]
    assert rates[1] > 1.5 * rates[0]
    assert rates[3] < 1.05 * rates[1]
    found = plan(Question(rates[1] * 0.8, 0.1, cores=2), busy)
    assert found.problems == ()
    assert found.one_more.endswith("more memory: 2 cores are shared already"), found.one_more


@pytest.mark.parametrize("cores", [None, 2])
def test_where_hardly_a_call_waits_the_cores_are_not_the_reason_why_one_more_gains_nothing(cores):
    found = plan(Question(0.5, 0.1, cores=cores), workload(cpu_s=0.001))
    assert found.replicas == 1
    assert found.one_more == "with 2: nothing gained for 100MiB more memory: calls hardly wait"


def test_more_replicas_than_a_backend_may_have_are_no_plan():
    found = plan(Question(10**6, 0.1), workload())
    (problem,) = found.problems
    assert problem.startswith("a backend has at most 1024 replicas. In reach: "), problem
    assert found.replicas > 1024, "what it would take"


def test_a_target_below_the_service_names_one_in_reach():
    found = plan(Question(300, 0.01), workload())
    (problem,) = found.problems
    assert problem == (
        "p99 10ms is out of reach with any number of replicas: a call alone takes 40ms (p99). In reach: p99 40ms"
    )
    assert plan(Question(300, 0.040), workload()).problems == ()


def test_too_few_cores_name_the_rate_and_the_cores_in_reach():
    busy = workload(cpu_s=0.02)
    found = plan(Question(300, 0.1, cores=2), busy)
    (problem,) = found.problems
    assert problem.startswith(f"{found.cores_needed} cores needed, and there are 2: replicas beyond 2 would only share")
    rate = float(problem.partition("In reach: ")[2].partition(" ")[0])
    assert 0 < rate < 100
    assert plan(Question(rate * 0.99, 0.1, cores=2), busy).problems == ()
    assert plan(Question(300, 0.1, cores=found.cores_needed), busy).problems == ()


def test_too_little_memory_names_the_rate_and_the_memory_in_reach():
    found = plan(Question(300, 0.1, memory_bytes=350 * MIB), workload())
    (problem,) = found.problems
    assert problem.startswith(f"{found.replicas * 100}MiB needed for {found.replicas} replicas, and there are 350MiB")
    assert "which hold 3. In reach: " in problem
    rate = float(problem.partition("In reach: ")[2].partition(" ")[0])
    assert plan(Question(rate * 0.9, 0.1, memory_bytes=350 * MIB), workload()).problems == ()
    none = plan(Question(300, 0.1, memory_bytes=10 * MIB), workload()).problems[0]
    assert "which hold 0. In reach: 0 calls/s in that" in none


def test_a_batch_leaves_room_for_the_wait_before_it():
    curve = BatchCurve(0.018, 0.001, 64)
    found = plan(Question(1000, 0.1), workload(curve=curve))
    assert curve.latency_s(found.batch_max) * (1 + 1 / found.replicas) <= 0.1
    assert found.replicas < plan(Question(1000, 0.1), workload()).replicas / 5
    assert plan(Question(1000, 10.0), workload(curve=curve)).batch_max == 64


def test_the_queue_bound_is_the_gateways():
    found = plan(Question(40, 0.5, timeout_s=2.0), workload())
    assert found.queue_bound == int((2.0 - 0.04) * found.replicas / EVEN.mean_s)
    assert found.queue_reason.startswith(f"{found.queue_bound} may wait: of the deadline of 2s, 40ms are kept")
    assert plan(Question(40, 0.5, timeout_s=3600), workload()).queue_bound == 10_000


def test_the_curve_is_fitted_and_bounded():
    curve = fit_curve([(1, 0.011), (8, 0.018), (32, 0.042), (64, 0.074)], 64)
    assert curve.base_s == pytest.approx(0.01, rel=0.02)
    assert curve.item_s == pytest.approx(0.001, rel=0.02)
    assert fit_curve([(1, 0.01), (2, 0.03)], 64).base_s == pytest.approx(0)
    with pytest.raises(ValueError, match="two sizes"):
        fit_curve([(4, 0.1), (4, 0.2)], 64)


def test_the_yaml_declares_the_plan(tmp_path):
    from muleteer.spec.file import load_file

    question = Question(300, 0.1)
    (tmp_path / "m.py").write_text("class M:\n    def predict(self): ...\n")
    spec = BackendSpec(name="lr:v1", target="m.py:M", base_dir=str(tmp_path), settings=BackendSettings(timeout=2.0))
    found = plan(question, workload())
    text = yaml_text(found, question, spec, "/predict", folder=str(tmp_path))
    assert text.startswith("# 300 calls/s with p99 100ms: ")
    (tmp_path / "muleteer.yaml").write_text(text)
    declared = load_file(tmp_path / "muleteer.yaml")
    assert declared.backends[0].settings == BackendSettings(
        timeout=2.0, slo=Slo(0.1), replicas=Replicas(1, found.replicas)
    )
    assert declared.endpoints[0].traffic == {"lr:v1": 1.0}


def test_what_one_gateway_cannot_answer_takes_several(tmp_path):
    quick = workload(service=Service(((0.0001, 1.0),)), cpu_s=0.00005)
    found = plan(Question(50_000, 0.02), quick)
    assert found.gateways == 8
    assert all(each.rate <= 8 * GATEWAY_RATE for each in found.breaks)
    spec = BackendSpec(name="m", target="m.py:M", base_dir=str(tmp_path), settings=BackendSettings())
    assert "server:\n  gateways: 8\n" in yaml_text(found, Question(50_000, 0.02), spec, "/m", folder=str(tmp_path))
    assert plan(Question(300, 0.1), workload()).gateways == 1
    beyond = plan(Question(1e6, 0.02), quick).problems
    assert beyond == ("at most 64 gateways answer, 7,000 calls/s each. In reach: 448,000 calls/s",)


def test_what_a_replica_could_do_beyond_its_gateway_is_not_promised():
    found = plan(Question(2_000, 0.02), workload(curve=BatchCurve(0.0002, 0.00003, 512)))
    assert [(each.replicas, each.rate) for each in found.breaks] == [(1, GATEWAY_RATE), (2, GATEWAY_RATE)]
