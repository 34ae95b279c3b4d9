"""Real replicas of models that take batches: what one call may do to the others of its batch, which is nothing."""

import os
import signal

import pytest

from muleteer.base.limits import BATCH_APART_S_MAX
from muleteer.wire.frames import Flag, FrameType
from tests.replica.processes import as_coroutine
from tests.waiting import until

LENGTHS = """
class Model:
    example = {"text": "warm"}
    calls = []
    def predict(self, text: str) -> int:
        raise RuntimeError("not asked")
    def predict_batch(self, inputs):
        self.calls.append(len(inputs))
        if "raise" in inputs: raise ValueError("one of them")
        if "die" in inputs: import os; os._exit(3)
        if "short" in inputs: return inputs[1:]
        if "sizes" in inputs: return [list(self.calls)] * len(inputs)
        return [float("nan") if each == "nan" else len(each) for each in inputs]
"""


@pytest.fixture
def batched(start_kind):
    return start_kind(LENGTHS)


def test_a_batch_is_one_call_of_the_method(batched):
    link = batched.link()
    assert link.outcomes(link.batch(b'"a"', b'{"text":"bb"}', b'"ccc"')) == [1, 2, 3]
    assert link.ask("dddd") == (4, None)
    sizes, _ = link.ask("sizes")
    assert sizes == [1, 3, 1, 1]  # the warm-up, the batch, two calls by themselves
    link.close()


def test_ready_says_so_and_info_shows_what_one_call_takes(batched):
    link = batched.link()
    info = batched.wait_ready()
    assert (info["batch"], info["parameters"], info["returns"]) == (True, ["text: str"], "int")
    link.close()


def test_answers_come_in_order_and_claim_the_time_of_the_batch(start):
    link = start(
        "import time\nclass Model:\n def predict_batch(self, inputs: list[int]):\n  time.sleep(0.03)\n  return inputs"
    ).link()
    ids = link.batch(b"1", b"2", b"3")
    link.wait_for(lambda frame: frame.id == ids[2])
    assert [frame.id for frame in link.frames if frame.id in ids] == ids[:2]
    assert all(frame.budget >= 30_000 for frame in link.frames if frame.id in ids)
    link.close()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{nope", "bad_json"),
        (b"5", "bad_arguments"),
        (b'"nan"', "bad_model_output"),
        (b'"raise"', "model_error"),
        (b'"short"', "bad_model_output"),
    ],
)
def test_one_bad_input_fails_alone(batched, body, code):
    link = batched.link()
    ids = link.batch(b'"a"', body, b'"ccc"')
    assert link.outcomes(ids) == [1, code, 3]
    sizes, _ = link.ask("sizes")
    late = link.service_s[ids[0]] * 3 > BATCH_APART_S_MAX  # the machine stood still in the method: as if that were slow
    spoils_the_batch = body in (b'"raise"', b'"short"')
    refused_before = code in ("bad_json", "bad_arguments")
    apart = [3, 2, 1, 1, 1] if late and len(sizes) == 7 else [3, 1, 1, 1]
    assert sizes[1:-1] == (apart if spoils_the_batch else [2] if refused_before else [3])
    link.close()


SLOW = """
import time
class Model:
    calls = []
    def predict_batch(self, inputs: list[int]):
        self.calls.append(len(inputs))
        if 99 in inputs: raise ValueError("at once")
        time.sleep(0.05)
        if min(inputs) < 0: raise ValueError("after a while")
        return [list(self.calls) if each == 7 else each for each in inputs]
"""


@pytest.mark.parametrize("bad", [-1, 99])
def test_members_of_a_slow_batch_that_fails_are_not_late_for_one_of_them(start, bad):
    link = start(SLOW).link()
    bodies = [b"1"] * 64
    bodies[40] = b"%d" % bad
    found = link.outcomes(link.batch(*bodies))
    assert found[40] == "model_error"
    assert [value for place, value in enumerate(found) if place != 40] == [1] * 63
    sizes, _ = link.ask(7)
    assert len(sizes) <= 16, f"alone, the last of them would have waited for 64 runs: {sizes}"
    link.close()


def test_a_slow_batch_of_which_all_fail_is_run_apart_to_the_last(start):
    link = start(SLOW).link()
    assert (
        link.outcomes(link.batch(*[b"99"] * 9, b"3", *[b"99"] * 6)) == ["model_error"] * 9 + [3] + ["model_error"] * 6
    )
    link.close()


def test_a_method_that_empties_its_list_still_answers_each_input(start):
    link = start("class Model:\n def predict_batch(self, inputs): return [inputs.pop(0) for _ in range(len(inputs))]")
    link = link.link()
    assert link.outcomes(link.batch(b"1", b"2", b"3")) == [1, 2, 3]
    link.close()


def test_errors_name_the_method_and_the_argument(start):
    link = start("class Model:\n def predict_batch(self, texts: list[str]): return 7 if texts == ['x'] else [{1}, {2}]")
    link = link.link()
    assert link.ask(5)[1]["error"] == "argument 'texts': expected `str`, got `int`"
    assert link.ask({"text": "a"})[1]["error"] == (
        "unknown argument 'text' (did you mean 'texts'?); missing argument 'texts'; predict_batch takes texts: str"
    )
    assert link.ask("x")[1]["error"] == "predict_batch returned a value of type int, not a list of answers"
    assert link.ask("y")[1]["error"] == "predict_batch returned more than 1 answers for one input"
    link.close()


def test_a_model_that_dies_takes_the_whole_batch_along(start):
    replica = start(LENGTHS)
    link = replica.link()
    link.batch(b'"a"', b'"die"', b'"ccc"')
    link.wait_for_end()
    assert link.frames == []
    assert replica.wait_exit() == 3
    link.close()


GATE = """
import os, time
class Model:
    def predict_batch(self, inputs: list[str]):
        for name in inputs:
            open(name + ".in", "w").close()
        while not all(os.path.exists(name) for name in inputs):
            time.sleep(0.002)
        return [len(inputs)] * len(inputs)
"""
GATE_ASYNC = as_coroutine(GATE)


@pytest.fixture(params=["plain", "async"])
def gated(request, start, tmp_path):
    """A replica that reads while its model runs, or does not; a link; a name → the body of a call that waits for it."""
    replica = start(GATE_ASYNC if request.param == "async" else GATE)
    link = replica.link()
    yield replica, link, lambda name: b'"%s"' % os.fsencode(tmp_path / name)
    link.close()


def seen(folder, name):
    until((folder / f"{name}.in").exists, f"{name} is seen")


def test_members_that_expire_or_are_cancelled_before_the_start_are_left_out(gated, tmp_path):
    _, link, body = gated
    (first,) = link.batch(body("first"))
    seen(tmp_path, "first")
    ids = link.batch(body("a"), body("b"), body("c"), budgets_ms=[10_000, 10_000, 0])
    link.cancel(ids[1])
    for name in ("a", "first"):
        (tmp_path / name).touch()
    assert link.outcomes([first, *ids]) == [1, 1, "cancelled", "expired_in_queue"]
    assert not (tmp_path / "b.in").exists()
    assert not (tmp_path / "c.in").exists()


def test_a_running_batch_goes_on_while_somebody_waits_for_it(gated, tmp_path):
    _, link, body = gated
    ids = link.batch(body("a"), body("b"))
    seen(tmp_path, "b")
    link.cancel(ids[0])
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    assert link.outcomes(ids) == [2, 2]


def test_a_coroutine_that_nobody_waits_for_is_cancelled(start, tmp_path):
    link = start(GATE_ASYNC).link()
    ids = link.batch(*(b'"%s"' % os.fsencode(tmp_path / name) for name in ("a", "b")))
    seen(tmp_path, "b")
    for id in ids:
        link.cancel(id)
    assert link.outcomes(ids) == ["cancelled", "cancelled"]
    link.close()


def test_a_batch_that_is_not_whole_waits_and_a_drain_answers_it(gated, tmp_path):
    replica, link, body = gated
    first, data = link.call_bytes(None, raw=body("a"), flags=Flag.MORE)
    link.channel.sendall(data)
    other = replica.link()
    (second,) = other.batch(body("b"))
    seen(tmp_path, "b")
    (tmp_path / "b").touch()
    assert other.outcomes([second]) == [1]  # the slot was free
    assert not (tmp_path / "a.in").exists()
    (tmp_path / "a").touch()
    (tmp_path / "c").touch()
    last, data = link.call_bytes(None, raw=body("c"))
    link.channel.sendall(data)
    assert link.outcomes([first, last]) == [2, 2]
    other.close()


def test_a_drain_answers_whole_batches(gated, tmp_path, request):
    replica, link, body = gated
    running = link.batch(body("a"), body("b"))
    seen(tmp_path, "b")
    waiting = link.batch(body("c"), body("d"))
    if request.node.callspec.params["gated"] == "async":
        replica.link().close()  # once this one is greeted, what stands before it has been read
    os.kill(replica.pid, signal.SIGTERM)
    for name in "abcd":
        (tmp_path / name).touch()
    link.wait_for(lambda frame: frame.type is FrameType.DRAIN)
    assert link.outcomes(running + waiting) == [2, 2, 2, 2]
    link.send(FrameType.DRAIN)
    assert replica.wait_exit() == 0


def test_a_model_without_batches_takes_them_as_single_calls(start):
    link = start("class Model:\n def predict(self, n: int): return n").link()
    assert link.outcomes(link.batch(b"1", b"2", b'"x"')) == [1, 2, "bad_arguments"]
    link.close()


STACK = """
import sys
class Model:
    example = [0, 0]
    def predict(self, rows):
        assert len(rows.shape) == 2 or rows.ndim == 1, rows.shape
        if rows.ndim == 2 and rows.shape[1] == 5: raise ValueError("five")
        return rows.sum(axis=1) if rows.ndim == 2 else {"n": 1} and rows + 0.5
"""


def test_stacked_inputs(start):
    link = start(STACK, batch="stack").link()
    bodies = [
        b"[1,2]",
        b"[3,4]",
        b'{"rows":[5,6]}',
        b"[1,2,3]",
        b"[[1],[2,3]]",
        b"[1,2,3,4,5]",
        b'["a"]',
        b"7",
        b"null",
    ]
    found = link.outcomes(link.batch(*bodies))
    assert found == [3, 7, 11, 6, "bad_arguments", "model_error", "bad_arguments", 7.5, "bad_arguments"]
    assert link.ask([[1], [2, 3]])[1]["error"] == "argument 'rows': expected an array, got ragged lists"
    link.close()


@pytest.mark.parametrize(
    ("source", "batch", "reason", "words"),
    [
        (
            "def predict_batch(self): pass",
            "auto",
            "bad_batch",
            "predict_batch() cannot be called with one list of inputs",
        ),
        ("def predict(self, a, b): pass", "list", "bad_batch", "predict(a, b) cannot be called"),
        (
            "async def predict_batch(self, x): yield 1",
            "auto",
            "bad_batch",
            "predict_batch is an asynchronous generator",
        ),
        (
            "def predict_batch(self, x): pass",
            "list",
            "no_predict",
            "predict_batch only, which `batch: list` does not call",
        ),
        ("def predict_batch(self, x): pass", "off", "no_predict", "`batch: off`"),
    ],
)
def test_a_method_that_takes_no_batch_is_refused_at_the_start(start, source, batch, reason, words):
    replica = start(f"class Model:\n {source}", batch=batch, ready=False)
    failed = replica.wait_message("failed")
    assert failed["reason"] == reason
    assert words in failed["message"]


def test_off_goes_by_predict(start):
    source = "class Model:\n def predict(self, x): return 'one'\n def predict_batch(self, x): return ['many']"
    for batch, answer in (("off", "one"), ("auto", "many")):
        replica = start(source, batch=batch)
        link = replica.link()
        assert link.ask(1) == (answer, None)
        link.close()
