"""The load generator counts every request once, whatever the server does to it. The servers here are real sockets."""

import asyncio
import contextlib
import time

import pytest
import uvloop

from bench.load import Load, Target, quantile


def body(nonce):
    return b"%d" % nonce


def answer(text, status="200 OK", extra=""):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nx-nonce: {text}\r\n{extra}\r\n{text}".encode()


def against(serve, drive, **target):
    """Run `drive(load)` against a server whose connections are served by `serve(reader, writer)`."""

    async def main():
        tasks = set()

        async def client(reader, writer):
            tasks.add(asyncio.current_task())
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await serve(reader, writer)
                    await writer.drain()
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

        server = await asyncio.start_server(client, "127.0.0.1", 0)
        load = Load(Target(server.sockets[0].getsockname()[1], "/p", body, **target))
        await drive(load)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        return load

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def one_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    return int(await reader.readexactly(length))


async def honest(reader, writer):
    while True:
        nonce = await one_request(reader)
        writer.write(answer(str(nonce)))


def test_every_nonce_gets_its_own_answer():
    load = against(honest, lambda load: load.open_loop(500, 0.4))
    assert [record.nonce for record in load.records] == list(range(1, 201))
    assert all(record.status == 200 and int(record.body) == record.nonce for record in load.records)
    assert all(record.header(b"x-nonce") == record.body for record in load.records)
    assert load.stray_bytes == 0


def test_open_loop_keeps_its_rate_when_the_server_stalls():
    stalls = []

    async def silent(reader, writer):
        await reader.read()

    async def drive(load):
        watch = asyncio.create_task(watched())
        await load.open_loop(200, 0.5)
        watch.cancel()

    async def watched():
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            stalls.append(time.monotonic() - began - 0.01)

    load = against(silent, drive, timeout_s=0.3)
    assert len(load.records) == 100
    failures = {record.failure for record in load.records}
    assert failures == {"timeout"} or (failures == {"timeout", "connect"} and max(stalls) > 0.2)
    assert all(0.3 <= record.done - record.sent < 0.7 + sum(stalls) for record in load.records if record.sent)


def test_closed_loop_has_no_more_on_the_way_than_connections():
    together = peak = 0

    async def slow(reader, writer):
        nonlocal together, peak
        while True:
            nonce = await one_request(reader)
            together += 1
            peak = max(peak, together)
            await asyncio.sleep(0.005)
            together -= 1
            writer.write(answer(str(nonce)))

    for _ in range(20):  # once, unless the machine stands still for most of it
        load = against(slow, lambda load: load.closed_loop(7, 0.3))
        assert all(record.status == 200 for record in load.records)
        assert peak <= 7
        if peak == 7 and len(load.records) > 50:
            return
    pytest.fail(f"{peak} at once, {len(load.records)} in all")


def test_a_connection_that_ends_without_an_answer_is_a_reset():
    async def rude(reader, writer):
        await one_request(reader)
        writer.transport.abort()

    load = against(rude, lambda load: load.open_loop(200, 0.2))
    assert {(record.status, record.failure) for record in load.records} == {(0, "reset")}


async def twice(reader, writer):
    nonce = await one_request(reader)
    writer.write(answer(str(nonce)) * 2)
    await reader.read()


def test_an_answer_too_many_is_noticed():
    load = against(twice, lambda load: load.closed_loop(1, 0))
    assert [record.status for record in load.records] == [200]
    assert load.stray_bytes == len(answer("1"))


def test_an_answer_too_many_is_not_the_answer_to_the_next():
    for _ in range(20):  # once, unless the machine stands still until all are due
        load = against(twice, lambda load: load.open_loop(20, 0.2), connections_max=1, timeout_s=0.3)
        if any(record.status == 200 and int(record.body) != record.nonce for record in load.records):
            return
    pytest.fail("no record shows an answer that was not its own")


def test_a_connection_that_is_turned_away():
    async def full(reader, writer):
        writer.write(answer("full", "503 Service Unavailable", "Connection: close\r\n"))

    async def drive(load):
        await load.prepare(3)
        give_up = time.monotonic() + 10
        while load.turned_away < 3:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.002)

    load = against(full, drive)
    assert (load.turned_away, load.stray_bytes) == (3, 0)


def test_nobody_listens():
    async def main():
        load = Load(Target(1, "/p", body))
        return await load.open_loop(50, 0.2)

    assert {record.failure for record in asyncio.run(main())} == {"connect"}


def test_requests_that_find_no_connection_are_counted_not_sent():
    asked = 0

    async def silent(reader, writer):
        nonlocal asked
        while True:
            await one_request(reader)
            asked += 1

    load = against(silent, lambda load: load.open_loop(100, 0.2), connections_max=2, timeout_s=1.0)
    failures = [record.failure for record in load.records]
    assert len(failures) == 20
    unsent = failures.count("unsent")
    assert max(2, asked) <= 20 - unsent < 20  # two, unless a second passes before all are due


def test_answers_in_pieces_and_connection_close():
    async def pieces(reader, writer):
        nonce = await one_request(reader)
        for byte in answer(str(nonce), "503 Service Unavailable", "Connection: close\r\n"):
            writer.write(bytes([byte]))
            await writer.drain()

    load = against(pieces, lambda load: load.open_loop(50, 0.2))
    assert {record.status for record in load.records} == {503}
    assert all(int(record.body) == record.nonce for record in load.records)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_quantile(share, expected):
    assert quantile(list(range(100, 0, -1)), share) == expected
