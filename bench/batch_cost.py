"""`python -m bench.batch_cost`: what a replica itself needs for one item of a batch, from the bytes of CALL frames to
those of REPLY frames, without the socket; and so from which model on it reaches 0.90 of a bare loop.

The least of many batches is shown: on a busy machine everything else is the neighbours'.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from muleteer.replica.batch import answer_batch
from muleteer.replica.load import Model
from muleteer.replica.session import Ready, Session
from muleteer.wire.connection import Connection, Role
from muleteer.wire.frames import Flag, FrameType, join_payload

_BATCHES = 400
_SIZES = (1, 8, 64)
_PAYLOAD_MAX = 1 << 20
_SHARE = 0.90


class Lengths:
    """Does nearly nothing, vectorised."""

    def predict(self, text: str) -> int:
        """What one call takes."""
        raise NotImplementedError

    def predict_batch(self, inputs: list[str]) -> list[int]:
        """One answer for each."""
        return [len(text) for text in inputs]


def sums(rows: Any) -> Any:
    """The same, of stacked arrays."""
    return rows.sum(axis=1)


def cost_us(model: Model, body: bytes, size: int) -> float:
    """µs for one item of a batch of `size`, the user's method excluded."""
    gateway = Connection(Role.GATEWAY, payload_max=_PAYLOAD_MAX)
    session = Session(Ready("m", "m-1", 1, 1, batch=True), payload_max=_PAYLOAD_MAX)
    session.receive(gateway.send(FrameType.HELLO, payload=b'{"protocol":1}'), 0.0)
    gateway.receive(session.take())
    payload = join_payload(b'{"id":"0123456789abcdef"}', body)
    ids = iter(range(1, _BATCHES * size + 1))
    least_s = float("inf")
    for _ in range(_BATCHES):
        flags = [Flag.MORE] * (size - 1) + [Flag.NONE]
        data = b"".join(
            gateway.send(FrameType.CALL, id=next(ids), budget=10_000, flags=each, payload=payload) for each in flags
        )
        began = time.perf_counter()
        session.receive(data, 0.0)
        calls = session.next_batch(0.0)
        answers = answer_batch(model, calls, debug=False)
        session.settle(calls, answers)
        session.take()
        least_s = min(least_s, time.perf_counter() - began - answers[0].service_us / 1e6)
    return least_s / size * 1e6


def main() -> None:
    """Print the table."""
    root = Path(__file__).parent
    texts = Model(Lengths(), "Lengths", root=root, notice=print)
    stacked = Model(sums, "sums", batch="stack", root=root, notice=print)
    print("µs of the replica for one item, the user's method excluded")
    print(f"| input | {' | '.join(f'batch of {size}' for size in _SIZES)} | {_SHARE:.2f} of a bare loop from |")
    print("|---|" + "---|" * (len(_SIZES) + 1))
    for label, model, body in (
        ("text of 15 characters", texts, b'{"text":"tadaaam tadaaam"}'),
        ("64 numbers, stacked", stacked, b"[" + b",".join(b"0.125" for _ in range(64)) + b"]"),
    ):
        costs = [cost_us(model, body, size) for size in _SIZES]
        enough_us = costs[-1] * _SHARE / (1 - _SHARE)
        shown = " | ".join(f"{cost:.1f}" for cost in costs)
        print(f"| {label} | {shown} | {enough_us:.0f} µs an item |")


if __name__ == "__main__":
    main()
