"""What several gateways that share a replica hear of one another's calls. Must not know models or loops.

A gateway sends its calls where it has none itself. Without a word from the replica, a call could stand here behind that
of another gateway while other replicas idle, and nobody would know that it does not run. So each link is told when the
others begin and end to have calls here: before they are run, since a replica that works in its main thread says nothing
meanwhile. Where calls are so short that gateways send several ahead anyway, nothing is told: it would cost more than
the wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from muleteer.base.limits import CREDIT_SERVICE_S_MAX
from muleteer.replica.session import Session

_CALLS = 16


class Sharing:
    """Of one replica.

    Args:
        warm_up_s: what a call took at the warm-up; 0 if there was none: then calls are long until a few are over.
    """

    __slots__ = ("_mean_s", "_samples")

    def __init__(self, warm_up_s: float = 0.0) -> None:
        self._mean_s = warm_up_s
        self._samples = _CALLS if warm_up_s else 0

    def took(self, seconds: float) -> None:
        """A call, or a batch, was run for so long."""
        self._samples = min(self._samples + 1, _CALLS)
        self._mean_s += (seconds - self._mean_s) / self._samples

    def tell(self, sessions: Sequence[Session], running: Sequence[int], gone: int = 0) -> list[Session]:
        """Tell all of them: of the calls of each so many are `running`, and so many of links that are `gone`. Returns
        those to whom it is news.
        """
        if self._samples == _CALLS and self._mean_s < CREDIT_SERVICE_S_MAX:
            return [session for session in sessions if session.tell(0)]
        runs = sum(running) + gone
        return [session for session, own in zip(sessions, running, strict=True) if session.tell(runs - own)]
