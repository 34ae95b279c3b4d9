"""What the controller remembers of one backend, beyond what was declared. Must not know engines or gateways."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from muleteer.control.files import FileWatch, shown, target_file
from muleteer.engine.port import ReplicaStatus
from muleteer.spec.fingerprint import fingerprint
from muleteer.spec.settings import BackendSpec
from muleteer.supervise.process import LastExit


class Reload(msgspec.Struct):
    """A new generation on its way, because of changed files. `since_s` is on the controller's clock."""

    since_s: float
    told_failure: bool = False


class Backend:
    """One declared backend.

    Attributes:
        fingerprint: of the present declaration.
        generation: the one that is wanted now; grows with each change of the code, and of what costs new replicas.
        reload: what is on its way, or None.
    """

    def __init__(self, spec: BackendSpec) -> None:
        self.spec = spec
        self.fingerprint = fingerprint(spec)
        self.generation = 1
        self.reload: Reload | None = None
        self._watch = FileWatch()
        self._files: frozenset[str] = frozenset()

    def declare(self, spec: BackendSpec) -> None:
        """The same backend, declared anew: a new generation if its replicas are not what is declared any more."""
        self.spec = spec
        now = fingerprint(spec)
        if now != self.fingerprint:
            self.fingerprint = now
            self.generation += 1
            self.reload = None
            self._watch, self._files = FileWatch(), frozenset()

    def observe(self, replica: ReplicaStatus) -> None:
        """A replica of this backend, perhaps adopted from an earlier controller: its generation is used, and used up if
        it was started from another declaration. So no generation need be stored.
        """
        if replica.fingerprint in ("", self.fingerprint):
            self.generation = max(self.generation, replica.generation)
        elif replica.generation >= self.generation:
            self.generation = replica.generation + 1
        if replica.state == "ready" and replica.generation == self.generation and replica.files:
            self._files = frozenset(replica.files)

    def look_at_files(self, now: float, notice: Callable[[str], None]) -> None:
        """Want a new generation if a source file changed. Before the first load only the target's own file is known."""
        own = target_file(self.spec.target, self.spec.base_dir)
        changed = self._watch.look(self._files | {own} if own is not None else self._files)
        if changed:
            self.generation += 1
            self.reload = Reload(now)
            notice(f"reloading {self.spec.name}: {shown(changed, self.spec.base_dir)} changed")

    def report_reload(
        self, now: float, replicas: Iterable[ReplicaStatus], wanted: int, notice: Callable[[str], None]
    ) -> None:
        """Say how the reload ended: done once nothing older is left, failed once a start of the new code failed.
        `replicas` are all of this backend that the engine knows, leaving ones too; so many are `wanted`.
        """
        if self.reload is None:
            return
        replicas = list(replicas)
        current = [replica for replica in replicas if replica.generation == self.generation]
        ready = sum(replica.state == "ready" for replica in current)
        if len(current) == len(replicas) and ready >= wanted:
            notice(f"reloaded {self.spec.name} in {now - self.reload.since_s:.1f} s")
            self.reload = None
        elif not self.reload.told_failure and (last_exit := failed_start(current)) is not None:
            self.reload.told_failure = True
            why = in_words(last_exit).partition("\n")[0]  # its own lines have told the rest
            serving = any(replica.state == "ready" for replica in replicas)
            notice(
                f"{self.spec.name}: new code does not start: {why}" + ("; the old one keeps serving" if serving else "")
            )


def replica_number(id: str) -> int:
    """7 for `FancyModel-7`; 0 where there is none."""
    number = id.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() else 0


def failed_start(replicas: Iterable[ReplicaStatus]) -> LastExit | None:
    """Why one of `replicas` cannot become ready, if there is such a one."""
    for replica in replicas:
        last_exit = replica.last_exit
        if replica.state in ("backoff", "failed") and last_exit is not None and not last_exit.was_ready:
            return last_exit
    return None


def in_words(last_exit: LastExit) -> str:
    """One sentence: its own message, else reason and exit status or signal."""
    if last_exit.message:
        return last_exit.message
    end = f"exit status {last_exit.code}" if last_exit.code is not None else last_exit.signal
    return f"{last_exit.reason} ({end})" if end else last_exit.reason
