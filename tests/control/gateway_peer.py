"""A gateway's control socket as a test needs it: takes every snapshot, or refuses, or keeps silent."""

from __future__ import annotations

import asyncio
from typing import Any

from muleteer.wire.lines import LineDecoder, encode_line


class GatewayPeer:
    def __init__(self, path: str) -> None:
        self.path = path
        self.snapshots: list[dict[str, Any]] = []
        self.answer = "applied"
        self.held: asyncio.Event | None = None
        self.statistics: dict[str, Any] = {}
        self.epoch = "first"
        self.closed = False
        self.loads: dict[str, dict[str, Any]] = {}
        self._watching: asyncio.StreamWriter | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def close(self) -> None:
        """As if killed: the socket's file stays, every connection ends."""
        self.closed = True
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def replicas(self, backend: str) -> list[str]:
        """Ids that the last snapshot names for `backend`."""
        found = next(row for row in self.snapshots[-1]["backends"] if row["name"] == backend)
        return [row["id"] for row in found["replicas"]]

    def _links(self) -> dict[str, Any]:
        """Every replica of the last snapshot is linked at once."""
        backends = self.snapshots[-1]["backends"] if self.snapshots else []
        return {
            row["name"]: {"replicas": {replica["id"]: {"state": "ready"} for replica in row["replicas"]}}
            for row in backends
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        decoder = LineDecoder()
        while data := await reader.read(65536):
            for message in decoder.feed(data):
                if message["type"] == "watch":
                    self._watching = writer
                else:
                    writer.write(encode_line(await self._answer(message)))
        self._writers.discard(writer)
        writer.close()

    def demand(self, *backends: str) -> None:
        """As if calls came for them."""
        assert self._watching is not None
        self._watching.write(encode_line({"type": "demand", "backends": backends}))

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["type"] == "statistics":
            return {"type": "statistics", "statistics": {"backends": self._links()} | self.statistics}
        if message["type"] == "load":
            return {"type": "load", "epoch": self.epoch, "backends": self.loads}
        if self.held is not None:
            await self.held.wait()
        self.snapshots.append(message["snapshot"])
        if self.answer == "applied":
            return {"type": "applied", "revision": message["snapshot"]["revision"]}
        return {"type": "refused", "error": self.answer}
