"""The same client for asyncio: each method runs its blocking twin in a thread. Must not know more than that one.

Steering a server is rare and slow, so a thread a call costs nothing that matters. Cancelling ends the waiting, not the
request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from muleteer.client.client import Client
from muleteer.client.handle import Handle


class AsyncClient:
    """One server. See Client for what each method does and raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    async def start(
        cls,
        detached: bool = False,
        http_options: Mapping[str, str | int] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
    ) -> Self:
        """See `muleteer.start`."""
        from muleteer.client.start import start

        return cls(await asyncio.to_thread(start, detached, http_options, run_dir))

    @classmethod
    async def connect(
        cls, run_dir: str | os.PathLike[str] | None = None, *, url: str | None = None, token: str | None = None
    ) -> Self:
        """See `muleteer.connect`."""
        from muleteer.client.start import connect

        return cls(await asyncio.to_thread(connect, run_dir, url=url, token=token))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self._client.__exit__, *exception)

    async def address(self) -> str:
        """Where requests go."""
        return await asyncio.to_thread(lambda: self._client.address)

    async def status(self) -> dict[str, Any]:
        """What runs."""
        return await asyncio.to_thread(self._client.status)

    async def create_backend(
        self, name: str, model: type | Callable[..., Any] | str, *, wait: bool = True, **settings: Any
    ) -> None:
        """Declare a new backend."""
        await asyncio.to_thread(self._client.create_backend, name, model, wait=wait, **settings)

    async def update_backend_config(
        self, name: str, config: Mapping[str, Any] | None = None, *, wait: bool = True, **settings: Any
    ) -> None:
        """Change some settings."""
        await asyncio.to_thread(self._client.update_backend_config, name, config, wait=wait, **settings)

    async def get_backend_config(self, name: str) -> dict[str, Any]:
        """What is declared of a backend."""
        return await asyncio.to_thread(self._client.get_backend_config, name)

    async def list_backends(self) -> dict[str, dict[str, Any]]:
        """Name → what is declared of it."""
        return await asyncio.to_thread(self._client.list_backends)

    async def delete_backend(self, name: str, *, wait: bool = True) -> None:
        """Remove a backend that no endpoint uses."""
        await asyncio.to_thread(self._client.delete_backend, name, wait=wait)

    async def create_endpoint(
        self,
        name: str,
        *,
        backend: str,
        route: str,
        methods: Sequence[str] = ("POST",),
        wait: bool = True,
        **policy: Any,
    ) -> None:
        """Declare a new endpoint."""
        await asyncio.to_thread(
            self._client.create_endpoint, name, backend=backend, route=route, methods=methods, wait=wait, **policy
        )

    async def set_traffic(self, endpoint: str, traffic: Mapping[str, float], *, wait: bool = True) -> None:
        """Split an endpoint's requests by weight."""
        await asyncio.to_thread(self._client.set_traffic, endpoint, traffic, wait=wait)

    async def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Name → what is declared of it."""
        return await asyncio.to_thread(self._client.list_endpoints)

    async def delete_endpoint(self, name: str, *, wait: bool = True) -> None:
        """Remove an endpoint."""
        await asyncio.to_thread(self._client.delete_endpoint, name, wait=wait)

    async def get_handle(self, endpoint: str) -> Handle:
        """To call the endpoint from here: `await handle.remote(text="…")`."""
        return await asyncio.to_thread(self._client.get_handle, endpoint)

    async def explain(self, name: str) -> dict[str, Any]:
        """Why an endpoint or backend is sized as it is."""
        return await asyncio.to_thread(self._client.explain, name)

    async def shutdown(self) -> None:
        """Stop the server; returns when it is gone."""
        await asyncio.to_thread(self._client.shutdown)
