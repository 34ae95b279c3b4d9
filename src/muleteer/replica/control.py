"""The replica's end of the control channel: what it tells the supervisor, and leaving at once when that one dies."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from muleteer.wire.lines import encode_line

_ORPHANED = 70  # exit status nobody is left to read


class Control:
    """Args: the inherited socket named `control`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.setblocking(True)

    def close(self) -> None:
        """Close our end of it."""
        self._channel.close()

    def watch(self) -> None:
        """From now on the end of the supervisor is the end of this process, also while the model runs for ever."""
        threading.Thread(target=self._wait_for_end, name="muleteer-control", daemon=True).start()

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of the start is done."""
        self._send({"type": "stage", "stage": stage, "seconds": round(seconds, 4)})

    def ready(self, info: dict[str, Any]) -> None:
        """The model is warm."""
        self._send({"type": "ready", "info": info})

    def failed(self, reason: str, message: str) -> None:
        """Why this process is about to exit."""
        self._send({"type": "failed", "reason": reason, "message": message})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._channel.sendall(encode_line(message))
        except OSError:
            os._exit(_ORPHANED)

    def _wait_for_end(self) -> None:
        try:
            while self._channel.recv(4096):  # nothing is said to a replica yet
                pass
        except OSError:
            pass
        os._exit(_ORPHANED)
