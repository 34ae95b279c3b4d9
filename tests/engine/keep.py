"""`keep.py RUN_DIR ARGV…`: a real supervisor whose controller is ARGV, and nothing else."""

import sys
from pathlib import Path

from muleteer.supervise.process import ProcessSpec
from muleteer.supervise.rundir import RunDirectory
from muleteer.supervise.supervisor import Supervisor

run_dir, *argv = sys.argv[1:]
directory = RunDirectory(Path(run_dir))
directory.open()
spec = ProcessSpec(
    id="controller", argv=tuple(argv), sockets={"admin": f"unix:{run_dir}/admin.sock"}, stop_rank=2, grace_s=5.0
)
sys.exit(Supervisor(directory, (spec,)).run())
