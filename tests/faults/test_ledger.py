"""The ledger finds every kind of lie in accounts made up by hand: a harness that finds nothing proves nothing."""

import json

import pytest

from bench.load import Record
from tests.faults.load import Execution, Ledger, executions_of

HEAD = b"HTTP/1.1 200 OK\r\nmuleteer-attempts: %d\r\nretry-after: 1"


def answer(nonce=1, status=200, attempts=1, *, pid=10, head=HEAD, **error):
    body = error or {"nonce": nonce, "pid": pid, "version": "one"}
    return Record(1, 0.0, 0.0, 1.0, status, head=head % attempts, body=json.dumps(body).encode())


def refusal(code="predicted_late", status=503, execution="not_started", **more):
    return answer(status=status, code=code, error="no", execution=execution, retryable=True, request_id="r", **more)


def lies(record, run=None, **more):
    return Ledger([record], {1: run} if run else {}, **more).lies()


ONCE = Execution([10], [10])


def test_honest_accounts():
    assert lies(answer(), ONCE) == []
    assert lies(answer(attempts=2), Execution([9, 10], [10])) == []
    assert lies(refusal()) == []
    assert lies(refusal("deadline", 504, "unknown"), Execution([10], [])) == []
    assert lies(refusal("replica_died", 502, "unknown", attempts=2), Execution([9, 10], [])) == []


@pytest.mark.parametrize(
    ("record", "run", "lie"),
    [
        (answer(nonce=2), ONCE, "crossed"),
        (answer(), None, "did not run it to its end"),
        (answer(), Execution([10], []), "did not run it to its end"),
        (answer(pid=11), ONCE, "did not run it to its end"),
        (answer(), Execution([9, 10], [9, 10]), "run 2 times, muleteer-attempts says 1"),
        (answer(attempts=3), Execution([8, 9, 10], [10]), "run 3 times"),
        (refusal(), ONCE, "not_started, but it was run"),
        (refusal("model_error", 500, "completed"), None, "completed, but it was never run"),
        (refusal("no_such_code"), None, "503 with the body"),
        (refusal(status=502), None, "502 with the body"),
        (refusal(head=b"HTTP/1.1 503 No\r\nx: %d"), None, "without Retry-After"),
        (Record(1, 0, 0, 1, 503, head=HEAD % 1, body=b"<html>"), None, "503 with the body"),
        (Record(1, 0, 0, 1, 200, head=HEAD % 1, body=b"[1]"), ONCE, "crossed"),
    ],
)
def test_each_lie_is_found(record, run, lie):
    assert any(lie in found for found in lies(record, run))


def test_an_answer_too_many_is_a_lie():
    assert lies(answer(), ONCE, stray_bytes=7) == ["7 bytes answered no request"]


def test_at_most_once_is_held():
    twice = Execution([9, 10], [10])
    assert lies(answer(attempts=2), twice) == []
    assert lies(answer(attempts=2), twice, at_most_once=True)


def test_outcomes_are_told_apart():
    records = [answer(), refusal(), *(Record(1, 0, 0, 1, failure=f) for f in ("reset", "timeout", "connect", "unsent"))]
    ledger = Ledger(records, {1: ONCE})
    assert (len(ledger.ok), len(ledger.failed), len(ledger.unknown), len(ledger.unreceived)) == (1, 1, 2, 2)
    assert ledger.codes() == {"predicted_late": 1, "reset": 1, "timeout": 1, "connect": 1, "unsent": 1}


def test_the_ledger_of_the_model():
    runs = executions_of("0 5 start\n0 5 end\n7 5 start\n7 6 start\n7 6 end\n")
    assert dict(runs) == {7: Execution([5, 6], [6])}
