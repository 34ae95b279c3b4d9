"""One batch through the user's method: bodies in, a terminal frame for each out. Must not know links or loops.

A member whose body is wrong fails before the batch is run, one whose answer has no JSON form after it; neither harms
the others. If the method raises, or returns something else than one answer for each input, nobody knows whose doing
that is: each member is run again by itself, and succeeds or fails alone. Whether a run is awaited is the caller's
affair: `_work` only says what to run next.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from muleteer.base.errors import BadModelOutput
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
    began = _now_ns()
    try:
        answers = _inputs(model).split(model.method(_inputs(model).join(inputs)), len(inputs))
        return _Ran(answers, None, elapsed_us(began))
    except BaseException as error:  # noqa: BLE001 - the user's code, also its SystemExit and KeyboardInterrupt
        return _Ran([], error, elapsed_us(began))


async def _run_async(model: Model, inputs: list[Any]) -> _Ran:
    began = _now_ns()
    try:
        answers = _inputs(model).split(await model.method(_inputs(model).join(inputs)), len(inputs))
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
    results: dict[int, _Result] = {}
    took_us = 0
    for portion in inputs.portions(taken) if taken else ():
        ran = yield [taken[place] for place in portion]
        took_us += ran.took_us
        if ran.error is None or len(portion) == 1:
            for place, answer in zip(portion, ran.answers or (None,), strict=True):
                results[place] = answer, ran.error
            continue
        _log_failure(ran.error, len(portion))
        for place in portion:
            if calls[place].expires_s <= time.monotonic():
                answers[place] = EXPIRED
                continue
            ran = yield [taken[place]]
            took_us += ran.took_us
            results[place] = (ran.answers or (None,))[0], ran.error
    for place, result in results.items():
        answers[place] = _answer(inputs, calls[place], result, took_us, debug)
    return [answers[place] for place in range(len(calls))]


def _answer(inputs: Inputs, call: Call, result: _Result, took_us: int, debug: bool) -> Answer:
    value, error = result
    if error is None:
        try:
            return reply(value, took_us)
        except BadModelOutput as unfit:
            error = BadModelOutput(unfit.message.replace("predict returned", f"{inputs.name} returned", 1))
    return failure(error, took_us, call.request_id, debug)


def _log_failure(error: BaseException, count: int) -> None:
    log("a batch failed, each input is run by itself", inputs=count, error=say(error))
    if not isinstance(error, BadModelOutput):
        write(own_traceback(error))
