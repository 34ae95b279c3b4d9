"""`python -m muleteer.control CONFIG`: the controller process. CONFIG: `{"run_dir": …}`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import msgspec
from setproctitle import setproctitle

from muleteer.control.declaration import Declaration
from muleteer.control.problems import Problems
from muleteer.control.process import Config, ControlProcess
from muleteer.spec.start import Start


def main() -> int:
    """Run as a child of the supervisor. Returns the exit status."""
    given = os.environ.get("MULETEER_FDS")
    if given is None or len(sys.argv) != 2:
        sys.stderr.write("muleteer.control is started by the supervisor: run `muleteer serve`\n")
        return 2
    descriptors = msgspec.json.decode(given, type=dict[str, int])
    try:
        config = msgspec.json.decode(sys.argv[1], type=Config)
        start = msgspec.json.decode(Path(config.run_dir, "declared.json").read_bytes(), type=Start)
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"muleteer.control cannot start: {error}\n")
        return 1
    setproctitle("muleteer: controller")
    sockets = {name: socket.socket(fileno=number) for name, number in descriptors.items()}
    declaration = Declaration(start, config.run_dir, Problems())
    declaration.open()
    try:
        asyncio.run(ControlProcess(config, declaration, sockets).run())
    finally:
        declaration.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
