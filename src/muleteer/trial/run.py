"""The whole measuring of one model: two replicas, first one, then both. Must not know what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from muleteer.base.errors import StartupFailedError, UsageError
from muleteer.control.proc import usage
from muleteer.engine.port import ReplicaRequest
from muleteer.trial.link import Unit
from muleteer.trial.measure import Batch, Measured, curve_of, measure_alone, measure_batches, measure_beside
from muleteer.trial.replica import TrialReplica

BESIDE_SHARE = 0.25  # of the time, for two at once
BATCH_SHARE = 0.35  # for batches, if the model takes them; the rest is for one alone


def measure(
    request: ReplicaRequest,
    directory: Path,
    inputs: Sequence[Unit],
    *,
    seconds: float,
    target_s: float,
    size_max: int,
    on_line: Callable[[str], None],
) -> Measured:
    """Start the replicas, measure, end them.

    Args:
        request: of the replicas.
        directory: for sockets and output.
        inputs: bodies, in turns; none: the model's example.
        seconds: to measure; starts are not counted, and slow models take longer.
        target_s: batches are tried until one takes longer.
        size_max: of a batch.
        on_line: told each line that the model writes.

    Raises:
        EndedError: a replica did not start.
        StartupFailedError: one was not ready in time, or a call failed.
        UsageError: there is no input.
    """
    first, second = (
        TrialReplica(msgspec.structs.replace(request, id=f"{request.id}-{number}"), directory, on_line=on_line)
        for number in (1, 2)
    )
    with first, second:
        first.start()
        inputs = inputs or [_example(first)]
        takes_batches = bool(first.link.ready.get("batch"))
        alone_share = 1 - BESIDE_SHARE - (BATCH_SHARE if takes_batches else 0)
        alone = measure_alone(first, inputs, alone_share * seconds)
        first_bytes, first_rss_bytes = _memory(first)
        batches: tuple[Batch, ...] = ()
        if takes_batches:
            batches = measure_batches(first, inputs, BATCH_SHARE * seconds, target_s=target_s, size_max=size_max)
        second.start()
        beside = measure_beside((first, second), inputs, BESIDE_SHARE * seconds, alone)
        (end_bytes, end_rss_bytes), (second_bytes, _) = _memory(first), _memory(second)
        return Measured(
            startup_s=(first.startup_s, second.startup_s),
            first_bytes=first_bytes,
            next_bytes=max(0, end_bytes + second_bytes - first_bytes),
            grown_bytes=max(0, end_rss_bytes - first_rss_bytes),
            concurrency=request.settings.concurrency,
            alone=alone,
            beside=beside,
            batches=batches,
            curve=curve_of(batches),
        )


def _example(replica: TrialReplica) -> Unit:
    if "example" not in replica.info:
        raise UsageError(
            "there is nothing to call the model with: give its class an `example`, or --input FILE.json or --input JSON"
        )
    return Unit((msgspec.json.encode(replica.info["example"]),), "the call on `example`")


def _memory(replica: TrialReplica) -> tuple[int, int]:
    """PSS and RSS."""
    used = usage(replica.pid)
    if used is None:
        raise StartupFailedError(f"{replica.request.target}: the replica ended while it was measured")
    return used.pss_bytes, used.rss_bytes
