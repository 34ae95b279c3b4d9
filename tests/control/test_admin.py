"""The admin server on a real socket, over a control that is scripted."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from muleteer.control.admin import AdminServer


class ScriptedControl:
    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.broken = False

    async def status(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("the table is upside down")
        return {"pid": 1}

    def problems(self) -> dict[str, str]:
        return {"publish": "no space left"}

    def retry(self, name: str) -> list[str] | None:
        return [f"{name}-1"] if name == "lr:v1" else None


@asynccontextmanager
async def serving(control: ScriptedControl) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="mul") as directory:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"{directory}/admin.sock")
        listening.listen()
        server = AdminServer(listening, control, control.failures.append)
        server.open()
        try:
            yield f"{directory}/admin.sock"
        finally:
            await server.close()
    assert control.failures == []


async def ask(path: str, line: str, *headers: str) -> tuple[int, Any]:
    reader, writer = await asyncio.open_unix_connection(path)
    fields = ("Host: muleteer", "Connection: close", "Content-Length: 0", *headers)
    writer.write("\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


def test_answers_and_refusals() -> None:
    async def scenario() -> None:
        async with serving(ScriptedControl()) as path:
            assert await ask(path, "GET /v1/status") == (200, {"pid": 1})
            assert await ask(path, "GET /v1/health") == (200, {"ok": True, "problems": {"publish": "no space left"}})
            assert await ask(path, "POST /v1/backends/lr:v1/retry") == (200, {"retried": ["lr:v1-1"]})
            assert (await ask(path, "POST /v1/backends/lr:v2/retry"))[0] == 404
            code, answer = await ask(path, "GET /v1/status", "Origin: null")
            assert (code, answer["code"]) == (403, "foreign_origin")

    asyncio.run(scenario())


def test_a_fault_of_ours_is_json_and_the_next_request_is_answered() -> None:
    async def scenario() -> None:
        control = ScriptedControl()
        async with serving(control) as path:
            control.broken = True
            code, answer = await ask(path, "GET /v1/status")
            assert (code, answer["code"]) == (500, "internal")
            assert "upside down" in answer["error"]
            control.broken = False
            assert await ask(path, "GET /v1/status") == (200, {"pid": 1})

    asyncio.run(scenario())


def test_close_is_quick_when_no_client_ever_came() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(1.0), serving(ScriptedControl()):
            pass

    asyncio.run(scenario())


def test_many_clients_at_once_wait_for_the_import() -> None:
    async def scenario() -> None:
        async with serving(ScriptedControl()) as path:
            answers = await asyncio.gather(*(ask(path, "GET /v1/status") for _ in range(20)))
            assert answers == [(200, {"pid": 1})] * 20

    asyncio.run(scenario())
