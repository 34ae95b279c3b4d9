"""Load in the background of a test, and the ledger that sets what callers saw against what the model did."""

import asyncio
import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import uvloop

from bench.load import Load, Record, Target, now
from muleteer.base.errors import CODES

nonces = itertools.count(1_000_000, 1_000_000)
"""Each load numbers its requests from the next million, so that no two requests of a test share a nonce."""
SECONDS_MAX = 3600.0
UNKNOWN = frozenset({"reset", "timeout", "protocol"})


def body(nonce, **extra):
    return json.dumps({"nonce": nonce, **extra}).encode()


@dataclass
class PatientLoad(Load):
    """Asks for no more than the server can do: a machine that others use may be too slow for any rate that is fixed
    beforehand, and what then is refused as late is refused rightly.

    Attributes:
        open_max: so many requests wait for their answers at most; the next one is due when there is room again.
    """

    open_max: int = 16

    async def open_loop(self, rate, seconds):
        await self.prepare(self.open_max)
        end, due = now() + seconds, now()
        while now() < end and not self._stopped:
            if self._unsettled < self.open_max and due <= now():
                self._begin(now())
                due = max(due, now() - 1 / rate) + 1 / rate  # what was missed is not made up for
            self._expire()
            await asyncio.sleep(min(0.01, max(0.0005, due - now())))
            await asyncio.sleep(0)  # an end of a connection is seen before the next request is sent on it
        return await self._finish()


class Background:
    """A load in a thread of its own, for `seconds` at least, until `finish()`. Open loop, but for `patient`."""

    def __init__(
        self,
        port,
        *,
        rate,
        seconds,
        deadline_s=2.0,
        path="/predict",
        connections_max=1024,
        source=None,
        patient=False,
        open_max=PatientLoad.open_max,
    ):
        headers = f"x-request-timeout-ms: {deadline_s * 1000:.0f}\r\n"
        # The caller waits a good deal longer than the deadline: an answer that comes too late must be seen, not missed.
        target = Target(
            port,
            path,
            body,
            headers=headers,
            timeout_s=deadline_s + 5,
            connections_max=connections_max,
            source=source,
        )
        if patient:
            self.load = PatientLoad(target, first_nonce=next(nonces), open_max=open_max)
        else:
            self.load = Load(target, first_nonce=next(nonces))
        self._rate = rate
        self._seconds = seconds
        self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self.load.open_loop(self._rate, SECONDS_MAX))
        except BaseException as error:
            self._error = error

    def answers(self, count=1, *, since=0.0):
        """Whether so many requests that were sent after that moment are answered well."""
        return sum(r.status == 200 and r.sent > since for r in tuple(self.load.records)) >= count

    def asked_s(self):
        """For how long requests have been due."""
        records = self.load.records
        return records[-1].due - records[0].due if records else 0.0

    def finish(self):
        """Ask for no more, and wait until each request has its outcome. The time counts from the first request: on a
        busy machine the connections come late.
        """
        give_up = time.monotonic() + self.load.target.timeout_s + 30
        while not self.load.records and self._thread.is_alive() and time.monotonic() < give_up:
            time.sleep(0.01)
        until = (self.load.records[0].due if self.load.records else 0.0) + self._seconds
        self._thread.join(max(0.0, until - time.monotonic()))
        self.load.stop()
        self._thread.join(self.load.target.timeout_s + 30)
        assert not self._thread.is_alive(), "the load generator does not end"
        if self._error is not None:
            raise self._error
        return self.load


def ask(port, nonce=None, *, deadline_s=30.0, path="/predict", **extra):
    """One request on a connection of its own; its record."""
    target = Target(
        port,
        path,
        lambda number: body(number, **extra),
        headers=f"x-request-timeout-ms: {deadline_s * 1000:.0f}\r\n",
        timeout_s=deadline_s + 10,
    )

    async def one():
        load = Load(target, first_nonce=next(nonces) if nonce is None else nonce)
        return (await load.closed_loop(1, 0))[0]

    return asyncio.run(one())


@dataclass
class Execution:
    """What the model did for one nonce: the pids that began it, and those that came to its end."""

    started: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)


def executions_of(text):
    """The model's ledger, by nonce; warm-ups (nonce 0) are left out."""
    found = defaultdict(Execution)
    for line in text.splitlines():
        nonce, pid, what = line.split()
        if nonce != "0":
            getattr(found[int(nonce)], "started" if what == "start" else "finished").append(int(pid))
    return found


def error_of(record):
    """The error body of an answer that is not a 200; empty if it is not the JSON that was promised."""
    try:
        found = json.loads(record.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass
class Ledger:
    """Every request of a load with its outcome, beside every execution of the model.

    Attributes:
        at_most_once: whether the backend was declared not idempotent.
    """

    records: list[Record]
    executions: dict[int, Execution]
    stray_bytes: int = 0
    at_most_once: bool = False

    @property
    def ok(self):
        return [record for record in self.records if record.status == 200]

    @property
    def failed(self):
        return [record for record in self.records if record.status not in (0, 200)]

    @property
    def unknown(self):
        return [record for record in self.records if record.failure in UNKNOWN]

    @property
    def unreceived(self):
        return [record for record in self.records if record.failure and record.failure not in UNKNOWN]

    def codes(self):
        """How often each code, and each failure without an answer."""
        return Counter(error_of(record).get("code", "?") for record in self.failed) + Counter(
            record.failure for record in self.records if record.failure
        )

    def lies(self):
        """Everything that must never be, whatever the fault: wrong, double, impossible or malformed answers."""
        found = [f"{self.stray_bytes} bytes answered no request"] if self.stray_bytes else []
        found += [problem for record in self.records for problem in self._lies_of(record)]
        return found

    def _lies_of(self, record):
        run = self.executions.get(record.nonce, Execution())
        name = f"nonce {record.nonce}"
        attempts = int(record.header(b"muleteer-attempts") or 1)
        if record.status == 200:
            answer = error_of(record)
            if answer.get("nonce") != record.nonce:
                yield f"{name}: crossed, answered with {record.body[:80]!r}"
            elif answer.get("pid") not in run.finished:
                yield f"{name}: answered by {answer.get('pid')}, which did not run it to its end"
            if len(run.started) > attempts:
                yield f"{name}: run {len(run.started)} times, muleteer-attempts says {attempts}"
        elif record.status:
            error = error_of(record)
            kind = CODES.get(error.get("code", ""))
            if kind is None or kind.status != record.status or not error.get("request_id"):
                yield f"{name}: {record.status} with the body {record.body[:120]!r}"
            elif error["execution"] == "not_started" and run.started and error["code"] != "poison":
                yield f"{name}: {error['code']} says not_started, but it was run"
            elif error["execution"] == "completed" and not run.started:
                yield f"{name}: {error['code']} says completed, but it was never run"
            if record.status == 503 and not record.header(b"retry-after"):
                yield f"{name}: 503 without Retry-After"
        if len(run.started) > (1 if self.at_most_once else 2):
            yield f"{name}: run {len(run.started)} times"
