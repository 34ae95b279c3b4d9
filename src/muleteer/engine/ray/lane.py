"""Threads for calls into a library that may hang. Must not know which library.

A call that hangs keeps its thread, for good perhaps. So there are only so many, whoever comes when all hang waits no
longer than its deadline and leaves nothing behind, and what must go on meanwhile has a lane of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

_Found = TypeVar("_Found")


class Lane:
    """Args:
    name: of the threads, for who looks at a stack.
    threads: calls at once.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._free = asyncio.Semaphore(threads)

    async def call(self, ask: Callable[[], _Found], deadline_s: float) -> _Found:
        """What `ask` returns or raises. Raises TimeoutError: it has not, or never began; one that has begun goes on."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(deadline_s):
            await self._free.acquire()
            work = self._threads.submit(ask)
            work.add_done_callback(lambda _: self._leave(loop))
            return await asyncio.wrap_future(work)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread, at the end of the call, however late."""
        with suppress(RuntimeError):  # the loop is over
            loop.call_soon_threadsafe(self._free.release)
