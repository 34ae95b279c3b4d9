"""A folder for one server: its run directory, its state, and the programs that steer it."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tests.processes import processes_of
from tests.waiting import until

DEADLINE_S = 100


class Place:
    """Closing it stops the server, if there is one, and fails if a process is left."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="mt-"))
        self.run_dir = self.path / "run"

    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MULETEER_", "XDG_"))}
        state = str(self.path / "state")
        return {**kept, "MULETEER_RUN_DIR": str(self.run_dir), "XDG_STATE_HOME": state, "NO_COLOR": "1"}

    @contextmanager
    def settings(self):
        """This process's environment, as the programs of this folder have it."""
        with mock.patch.dict(os.environ, self.environment(), clear=True):
            yield

    def write(self, name, text):
        path = self.path / name
        path.write_text(textwrap.dedent(text))
        return path

    def program(self, *arguments, **more):
        """Start a Python program in the folder."""
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=self.path,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **more,
        )

    def run(self, *arguments):
        """The same to its end; what it printed. Fails if it does."""
        process = self.program(*arguments)
        with process.stdout:
            said = process.stdout.read()
        assert process.wait(timeout=DEADLINE_S) == 0, said
        return said

    def command(self, *arguments):
        """One `muleteer` command; status and both outputs."""
        return subprocess.run(
            [sys.executable, "-m", "muleteer.cli", *map(str, arguments)],
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def processes(self):
        """Pids of the server's processes."""
        return processes_of(self.path)

    def close(self):
        self.command("stop", "--now")
        try:
            until(lambda: not self.processes(), "the end of every process")
        finally:
            shutil.rmtree(self.path)
