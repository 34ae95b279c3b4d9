"""The Ray actor that keeps one replica on its node. It is shipped as it stands, so it may import the standard library
and ray and nothing else: muleteer may be missing there, and then it is here that this is said.

The actor runs no model and no code of ours: it starts `muleteer.engine.ray.host` beside itself, in the interpreter that
Ray chose, and passes lines on. Its death ends that process (end of file on stdin); the death of that process ends the
actor, and Ray starts another. So a model that crashes costs no actor, and neither leaves the other behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

HOST = "muleteer.engine.ray.host"
WATCH_S = 5.0
"""How long `watch` waits for something new; then it says that there is nothing."""
LEAVE_S = 60.0
"""For a host to answer what it has, when the actor ends itself; and for who stopped it to end the actor."""
ROWS_KEPT = 100
TAIL_BYTES = 4096


def free_by_node() -> dict[str, dict[str, float]]:
    """What nobody has reserved, by node and by Ray's name of the resource; in public there is only the sum."""
    from ray._private import state

    found: dict[str, dict[str, float]] = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return found


def without_place() -> list[tuple[dict[str, float], int]]:
    """How many ask for what, and no node has it free: what Ray tells its autoscaler. Whoever only starts is no more
    among them.
    """
    from ray._private import worker
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    told = get_cluster_resource_state(worker.global_worker.gcs_client)  # type: ignore[attr-defined]
    return [(dict(each.request.resources_bundle), int(each.count)) for each in told.pending_resource_requests]


def states_of_actors() -> dict[str, str]:
    """Of each actor that has a name, Ray's word for its state."""
    from ray._private import state

    return {row["Name"]: row["State"] for row in state.actors().values() if row["Name"]}


class Keeper:
    """One replica.

    Args:
        config: what the host is told, as JSON: `request`, `secret`, `version`, `shipped` (the model's folder is this
            actor's working directory). `module`: that of another host, which keeps something else. `orphan_s`: it ends
            when nobody has watched for so many seconds.
    """

    def __init__(self, config: str) -> None:
        import ray

        self._config = json.loads(config)
        self._life = uuid.uuid4().hex
        context = ray.get_runtime_context()
        self._node = {
            "id": context.get_node_id(),
            "address": ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
            "reborn": bool(context.was_current_actor_reconstructed),
        }
        self._changed = threading.Condition()
        self._rows: deque[tuple[float, dict[str, Any]]] = deque(maxlen=ROWS_KEPT)
        self._count = 0
        self._watchers = 0
        self._watched_s = time.monotonic()
        self._lease_s: float = self._config["orphan_s"]
        self._start()
        threading.Thread(target=self._end_when_forsaken, args=(context.current_actor,), daemon=True).start()

    def watch(self, life: str, seen: int) -> str:
        """JSON: the rows after the first `seen` of this `life`, all of them if the caller knows another life; waits for
        one. `config` goes with them for a caller that knows nothing.
        """
        with self._changed:
            if life != self._life:
                seen = 0
            self._watchers += 1
            self._changed.wait_for(lambda: self._count > seen, timeout=WATCH_S)
            self._watchers -= 1
            self._watched_s = time.monotonic()
            rows = list(self._rows)[max(0, len(self._rows) - (self._count - seen)) :]
            now = time.monotonic()
            told = [{**row, "since_s": row.get("since_s", 0.0) + now - at} for at, row in rows]
            return json.dumps(
                {
                    "life": self._life,
                    "count": self._count,
                    "rows": told,
                    "node": self._node,
                    "config": None if life else self._config,
                }
            )

    def order(self, line: str) -> None:
        """One order for the host: `stop`, `retry` or `abort`."""
        kind = json.loads(line).get("type")
        if kind == "stop":  # who says so ends this actor too, unless the head is away: then we do once it is back
            self._lease_s = min(self._lease_s, LEAVE_S)
        if kind is not None and self._host.poll() is not None:
            if kind == "retry":
                self._start()
            elif kind == "stop":
                self._add({"state": "gone"})
            return
        try:
            self._orders.write(line.encode() + b"\n")
            self._orders.flush()
        except OSError:
            pass  # it is dead, and the reader of its rows knows

    def _start(self) -> None:
        environment = dict(os.environ)
        folder = str(Path.cwd())
        # Ray puts a shipped folder on the path: a file of the user's named like one of the library would shadow it
        paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", folder)]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        self._host = subprocess.Popen(
            [sys.executable, "-P", "-m", self._config.get("module", HOST)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert self._host.stdin is not None
        self._orders: IO[bytes] = self._host.stdin
        tail: deque[str] = deque(maxlen=40)
        errors = threading.Thread(target=self._read_errors, args=(self._host.stderr, tail), daemon=True)
        errors.start()
        threading.Thread(target=self._read_rows, args=(self._host, errors, tail), daemon=True).start()
        self.order(json.dumps({**self._config, "folder": folder, "address": self._node["address"]}))

    def _end_when_forsaken(self, me: Any) -> None:
        """Every `watch` says that a server lives. Without one for so long, nobody else will ever end this actor."""
        import ray

        while (rest_s := self._lease_s - self._forsaken_s()) > 0:
            time.sleep(min(rest_s, WATCH_S))
        print(f"muleteer: no server has asked for {self._lease_s:g} s, so this actor ends", file=sys.stderr, flush=True)
        self.order(json.dumps({"type": "stop"}))
        with suppress(subprocess.TimeoutExpired):
            self._host.wait(LEAVE_S)
        while True:
            with suppress(ray.exceptions.RayError, RuntimeError):  # only the head can end an actor for good: it is away
                ray.kill(me, no_restart=True)
            time.sleep(WATCH_S)

    def _forsaken_s(self) -> float:
        with self._changed:
            return 0.0 if self._watchers else time.monotonic() - self._watched_s

    def _read_rows(self, host: subprocess.Popen[bytes], errors: threading.Thread, tail: deque[str]) -> None:
        assert host.stdout is not None
        state = ""
        for line in host.stdout:
            row = json.loads(line)
            state = row["state"]
            self._add(row)
        code = host.wait()
        if state in ("gone", "failed"):
            return
        if state:
            os._exit(1)  # it lived and died: Ray starts this actor anew, perhaps where things are better
        errors.join(1.0)
        text = "\n".join(tail)[-TAIL_BYTES:]
        missing = f"No module named {HOST.partition('.')[0]!r}" in text or "No module named muleteer" in text
        message = (
            f"muleteer is not installed for {sys.executable} (or in another version)"
            if missing
            else f"{sys.executable} -m {HOST} ended with status {code}"
        )
        self._add({"state": "failed", "last_exit": {"reason": "no_host", "message": message, "log_tail": text}})

    def _read_errors(self, stream: IO[bytes], tail: deque[str]) -> None:
        for line in stream:
            text = line.decode(errors="replace").rstrip("\n")
            tail.append(text)
            print(text, file=sys.stderr, flush=True)

    def _add(self, row: dict[str, Any]) -> None:
        with self._changed:
            self._rows.append((time.monotonic(), row))
            self._count += 1
            self._changed.notify_all()
