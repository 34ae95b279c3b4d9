"""Faults of clients: they leave, and they are slow."""

import contextlib
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from bench import measure
from bench.load import quantile
from bench.server import wait_until
from muleteer.base.limits import PIPELINE_MAX
from tests.faults.load import body
from tests.faults.server import Rig, raw, request_bytes


def leaves_the_queue(folder, size, report):
    """Callers that leave while they wait: their calls never run."""
    with Rig(folder, replicas=1) as rig:
        rig.wait_replicas()
        rig.ledger(rig.load(size, 100, 1.0))  # so that service times are known and calls may wait
        with raw(rig, request_bytes(body(7, do="hold"))) as running:
            wait_until(lambda: rig.executions()[7].started, "the first call runs")
            with contextlib.ExitStack() as waiting:
                for nonce in range(100, 100 + size.clients):
                    waiting.enter_context(raw(rig, request_bytes(body(nonce))))
                wait_until(lambda: rig.backend()["queue"]["depth"] == size.clients, "all wait")
            wait_until(lambda: rig.backend()["queue"]["depth"] == 0, "none waits any more")
            report.expect("the queue is empty before the slot is free", not rig.executions()[7].finished)
            (rig.folder / "go").touch()
            running.settimeout(60)
            report.expect("the running call is answered", running.recv(20).startswith(b"HTTP/1.1 200"))
        report.expect_accounts(rig.ledger(rig.load(size, 50, 0.5)), rig)
        run = [nonce for nonce in rig.executions() if 100 <= nonce < 100 + size.clients]
        report.expect("a queued call whose caller left never runs", not run, run)
        gone = rig.statistics()["http"]["client_gone"]
        report.expect("each is counted", gone == size.clients, f"client_gone {gone}")


def leaves_a_running_call(folder, size, report):
    """Callers that leave while their call runs: the slots come back."""
    with Rig(folder, replicas=2) as rig:
        rig.wait_replicas()
        for nonce in range(100, 100 + size.times):
            with raw(rig, request_bytes(body(nonce, do="sleep", amount=0.1))):
                wait_until(lambda nonce=nonce: rig.executions()[nonce].started, "the call runs")
        wait_until(lambda: all(e.finished for e in rig.executions().values()), "all have ended")
        replicas = set(rig.pids("replica"))
        ledger = rig.ledger(rig.load(size, 100, 1.0))
        report.expect_accounts(ledger, rig)
        used = {pid for record in ledger.ok for pid in ledger.executions[record.nonce].finished}
        report.expect("no slot leaked: the same replicas, and all of them work", used == replicas, used)


def leaves_at_any_moment(folder, size, report):
    """Callers that leave at random moments, among callers that stay."""
    dice = random.Random(size.seed)
    with Rig(folder) as rig:
        rig.wait_replicas()
        replicas = set(rig.pids("replica"))
        load = rig.load(size, size.rate, size.seconds)
        moments = [dice.uniform(0, 0.012) for _ in range(size.clients * 10)]

        def visit(numbered):
            number, moment = numbered
            data = request_bytes(body(100 + number))
            cut = dice.randrange(1, len(data)) if number % 3 == 0 else len(data)
            with raw(rig, data[:cut]) as link:
                time.sleep(moment)
                if number % 2:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(visit, enumerate(moments)))
        ledger = rig.ledger(load)
        report.expect_accounts(ledger, rig)
        report.expect("no replica was lost", set(rig.pids("replica")) == replicas)
        after = rig.ledger(rig.load(size, 100, 1.0))
        used = {pid for record in after.ok for pid in after.executions[record.nonce].finished}
        report.expect("no slot leaked: all replicas work", used == replicas, used)


def slow_clients(folder, size, report):
    """Callers that send their headers, or their body, a byte now and then."""
    with Rig(folder, replicas=2) as rig:
        rig.wait_replicas()
        quiet = rig.ledger(rig.load(size, size.rate / 2, 1.0))
        data = request_bytes(body(99) + b" " * 1000)
        links = []
        for number in range(size.clients):
            links.append(socket.create_connection(("127.0.0.1", rig.port), 30))
            links[-1].sendall(data[:30] if number % 2 else data[:-1000])
        begun = time.monotonic()
        load = rig.load(size, size.rate / 2, 13.0)
        ends = {}
        while len(ends) < len(links) and time.monotonic() - begun < 15 * size.slack:
            for number, link in enumerate(links):
                if number not in ends and (answer := trickle(link)) is not None:
                    ends[number] = (time.monotonic() - begun, answer)
            depth = rig.backend()["open_calls"]
            time.sleep(0.5)  # the pace of the slow
        for link in links:
            link.close()
        ledger = rig.ledger(load)
        report.expect("each is ended", len(ends) == len(links), f"{len(ends)} of {len(links)}")
        report.expect_within("the last of them", max((end for end, _ in ends.values()), default=99), 12.0, size)
        polite = all(answer == b"" or answer.startswith(b"HTTP/1.1 408") for _, answer in ends.values())
        report.expect("408 or close", polite, {answer[:40] for _, answer in ends.values()})
        report.expect("none of them was run", not rig.executions()[99].started, depth)
        report.expect_accounts(ledger, rig)
        waits = [quantile([r.done - r.sent for r in each.ok], 0.99) for each in (quiet, ledger)]
        quiet_s = waits[0] if size.slack == 1 else max(waits[0], 0.02)  # of a second that may have been a lucky one
        report.expect_within(f"others' p99, of {waits[0]:.4f} s when quiet,", waits[1], 2 * quiet_s, size)


def trickle(link):
    """Send one byte; what the server answered, or None while it listens."""
    try:
        link.send(b" ")
        link.setblocking(False)
        try:
            return link.recv(4096)
        except BlockingIOError:
            return None
        finally:
            link.setblocking(True)
    except OSError:
        return b""


def slow_readers(folder, size, report):
    """Callers that ask for much and do not read it."""
    asked, answer_bytes = 60, 256 * 1024
    with Rig(folder, replicas=2) as rig, contextlib.ExitStack() as links:
        rig.wait_replicas()
        (gateway,) = rig.pids("gateway")
        before = measure.memory(gateway).rss
        for _ in range(size.clients):
            link = links.enter_context(socket.socket())
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.connect(("127.0.0.1", rig.port))
            link.sendall(request_bytes(body(99, do="pad", amount=answer_bytes)) * asked)
        wait_until(lambda: rig.backend()["open_calls"] == 0, "nothing more is run for them", seconds=60)
        run = len(rig.executions()[99].started)
        report.expect("back-pressure: not all they asked for is run", run < size.clients * asked, f"{run} calls")
        held = (measure.memory(gateway).rss - before) / size.clients
        bound = PIPELINE_MAX * answer_bytes + 2**20
        report.expect("memory of each: 16 answers", held < bound, f"{held / 2**20:.1f} MiB each")
        ledger = rig.ledger(rig.load(size, size.rate / 2, size.seconds))
        report.expect("others are served", len(ledger.ok) == len(ledger.records), ledger.codes())
        links.close()
        report.expect_accounts(ledger, rig)


FAULTS = [leaves_the_queue, leaves_a_running_call, leaves_at_any_moment, slow_clients, slow_readers]
