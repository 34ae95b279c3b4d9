"""A real supervisor for a test, in a run directory of its own; nothing of it is left at the end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEEP = Path(__file__).with_name("keep.py")


@contextmanager
def run_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mul") as directory:
        yield Path(directory).resolve()


@contextmanager
def supervised(run_dir: Path, *controller: str) -> Iterator[subprocess.Popen[bytes]]:
    """The supervisor's process; its controller is `controller`, a Python command line without the interpreter."""
    command = [sys.executable, str(KEEP), str(run_dir), sys.executable, *controller]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
