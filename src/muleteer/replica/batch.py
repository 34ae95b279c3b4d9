"""One batch through the user's method: bodies in, a terminal frame for each out. Must not know links or loops.

A member whose body is wrong fails before the batch is run, one whose answer has no JSON form after it; neither harms
the others. If the method raises, or returns something else than one answer for each input, nobody knows whose doing
that is: each member is run again by itself, and succeeds or fails alone. Where that would take so long that the others
are late for it, halves are run instead, those that fail are halved again, and only who spoils the last is alone.
Members that are to be run once fail instead.

Whether a run is awaited is the caller's affair: `_Work` only says what to run next.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from muleteer.base.errors import BadModelOutput
from muleteer.base.limits import BATCH_APART_S_MAX
from muleteer.replica.answer import EXPIRED, Answer, Call, elapsed_us, failure, is_cancelled, reply
from muleteer.replica.inputs import Inputs
from muleteer.replica.load import Model
from muleteer.replica.strict_json import decode
from muleteer.replica.traces import own_traceback, say, write
from muleteer.telemetry.log import log

_now_ns = time.perf_counter_ns


class _Ran:
    """What one run of the method gave: its answers, or the error."""

    __slots__ = ("answers", "error", "took_us")

    def __init__(self, answers: list[Any], error: BaseException | None, took_us: int) -> None:
        self.answers = answers
        self.error = error
        self.took_us = took_us


_Work = Generator[list[Any], _Ran, list[Answer]]
_Steps = Generator[list[Any], _Ran, None]


def answer_batch(model: Model, calls: Sequence[Call], *, debug: bool) -> list[Answer]:
    """Run a plain method. Never raises; an answer for each call, in order."""
    work = _work(_inputs(model), calls, debug)
    try:
        inputs = next(work)
        while True:
            inputs = work.send(_run(model, inputs))
    except StopIteration as done:
        answers: list[Answer] = done.value
        return answers


async def answer_batch_async(model: Model, calls: Sequence[Call], *, debug: bool) -> list[Answer]:
    """Run a coroutine method. Raises nothing but the CancelledError of its own task."""
    work = _work(_inputs(model), calls, debug)
    try:
        inputs = next(work)
        while True:
            inputs = work.send(await _run_async(model, inputs))
    except StopIteration as done:
        answers: list[Answer] = done.value
        return answers


def _inputs(model: Model) -> Inputs:
    assert model.inputs is not None, "asked of models that take batches only"
    return model.inputs


def _run(model: Model, inputs: list[Any]) -> _Ran:
    began, count = _now_ns(), len(inputs)  # counted before: the method may use up its list
    try:
        answers = _inputs(model).split(model.method(_inputs(model).join(inputs)), count)
        return _Ran(answers, None, elapsed_us(began))
    except BaseException as error:  # noqa: BLE001 - the user's code, also its SystemExit and KeyboardInterrupt
        return _Ran([], error, elapsed_us(began))


async def _run_async(model: Model, inputs: list[Any]) -> _Ran:
    began, count = _now_ns(), len(inputs)
    try:
        answers = _inputs(model).split(await model.method(_inputs(model).join(inputs)), count)
        return _Ran(answers, None, elapsed_us(began))
    except BaseException as error:  # the user's code, also its SystemExit and CancelledError
        if is_cancelled(error):
            raise
        return _Ran([], error, elapsed_us(began))


_Result = tuple[Any, BaseException | None]
"""What the method gave for one input, or the error."""


def _work(inputs: Inputs, calls: Sequence[Call], debug: bool) -> _Work:
    """Yields the inputs of one run and is sent what came of it; returns the answers of all calls."""
    answers: dict[int, Answer] = {}
    taken: dict[int, Any] = {}
    for place, call in enumerate(calls):
        try:
            taken[place] = inputs.take(decode(call.body))
        except BaseException as error:  # noqa: BLE001 - the user's types: their validators run in here
            answers[place] = failure(error, 0, call.request_id, debug)
    runs = _Runs(calls, taken)
    for portion in inputs.portions(taken) if taken else ():
        yield from runs.whole(portion)
    for place in taken:
        result = runs.results.get(place)
        answers[place] = EXPIRED if result is None else _answer(inputs, calls[place], result, runs.took_us, debug)
    return [answers[place] for place in range(len(calls))]


class _Runs:
    """Those of one batch.

    Attributes:
        results: by place in the batch; who expired before a run has none.
        took_us: in the method, all runs together.
    """

    def __init__(self, calls: Sequence[Call], taken: dict[int, Any]) -> None:
        self.results: dict[int, _Result] = {}
        self.took_us = 0
        self._longest_s = 0.0
        self._calls = calls
        self._taken = taken

    def whole(self, portion: list[int]) -> _Steps:
        """All at once, and should that fail its members again."""
        error = yield from self._run(portion)
        if error is None or len(portion) == 1:
            return
        once = {place: (None, error) for place in portion if self._calls[place].once}
        self.results |= once
        _log_failure(error, len(portion), "no input is run twice" if once else "each input is run by itself")
        yield from self._again([place for place in portion if place not in once], behind=0)

    def _again(self, places: list[int], behind: int) -> _Steps:
        """`places` failed together: each gets a result of its own. So many others wait `behind` them."""
        spoilt = True  # as far as is known; of what is left once one was found, nothing is
        while places := [place for place in places if self._calls[place].expires_s > time.monotonic()]:
            alone = self._has_time(places, behind)
            count = 1 if alone else (len(places) + 1) // 2 if spoilt else len(places)
            part, places = places[:count], places[count:]
            error = yield from self._run(part)
            spoilt = spoilt and error is None
            if error is not None and len(part) > 1:
                yield from self._again(part, behind + len(places))

    def _run(self, places: list[int]) -> Generator[list[Any], _Ran, BaseException | None]:
        """Run these together; whose error it is is known only of one."""
        ran = yield [self._taken[place] for place in places]
        self.took_us += ran.took_us
        self._longest_s = max(self._longest_s, ran.took_us / 1e6)
        if ran.error is None or len(places) == 1:
            for place, answer in zip(places, ran.answers or (None,), strict=True):
                self.results[place] = answer, ran.error
        return ran.error

    def _has_time(self, places: list[int], behind: int) -> bool:
        """Whether each can go by itself: in half of the time that is left, since the other half is for surprises."""
        left_s = min(self._calls[place].expires_s for place in places) - time.monotonic()
        return (len(places) + behind) * self._longest_s <= min(BATCH_APART_S_MAX, left_s / 2)


def _answer(inputs: Inputs, call: Call, result: _Result, took_us: int, debug: bool) -> Answer:
    value, error = result
    if error is None:
        try:
            return reply(value, took_us)
        except BadModelOutput as unfit:
            error = BadModelOutput(unfit.message.replace("predict returned", f"{inputs.name} returned", 1))
    return failure(error, took_us, call.request_id, debug)


def _log_failure(error: BaseException, count: int, then: str) -> None:
    log(f"a batch failed, {then}", inputs=count, error=say(error))
    if not isinstance(error, BadModelOutput):
        write(own_traceback(error))
