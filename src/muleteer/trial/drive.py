"""A closed loop over replicas: as many units in flight on each as asked, until enough is known. Must not know what is
measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from muleteer.trial.link import Answered, Unit
from muleteer.trial.replica import TrialReplica, readable


def drive(
    replicas: Sequence[TrialReplica],
    units: Iterator[Unit],
    *,
    in_flight: int,
    enough: Callable[[Sequence[Answered]], bool],
) -> list[Answered]:
    """Everything that was answered until `enough` said so, in order; what was still in flight then is waited for, and
    left out. Raises StartupFailedError if a call fails.
    """
    answered: list[Answered] = []
    for replica in replicas:
        for _ in range(in_flight):
            replica.send(next(units))
    going = True
    while going:
        for replica in readable(replicas):
            answered += (done := replica.receive())
            for _ in done:
                replica.send(next(units))
        going = not enough(answered)
    while any(replica.link.in_flight for replica in replicas):
        for replica in readable(replicas):
            replica.receive()
    return answered
