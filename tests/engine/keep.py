"""`keep.py RUN_DIR ARGV…`: a real supervisor whose controller is ARGV, and nothing else. The port of the admin API's TCP
listener is written to RUN_DIR/admin.port.
"""

import socket
import sys
from pathlib import Path

from muleteer.supervise.process import ProcessSpec
from muleteer.supervise.rundir import RunDirectory
from muleteer.supervise.supervisor import Supervisor

run_dir, *argv = sys.argv[1:]
directory = RunDirectory(Path(run_dir))
directory.open()
listening = socket.create_server(("127.0.0.1", 0))
Path(run_dir, "admin.port").write_text(str(listening.getsockname()[1]))
spec = ProcessSpec(
    id="controller",
    argv=tuple(argv),
    sockets={"admin": f"unix:{run_dir}/admin.sock", "admin_tcp": "admin_tcp"},
    stop_rank=2,
    grace_s=5.0,
)
sys.exit(Supervisor(directory, (spec,), sockets={"admin_tcp": listening}).run())
