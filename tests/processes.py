"""Which processes of this machine belong to a test's folder."""

from pathlib import Path


def processes_of(folder):
    """Pids of everything whose command line names the folder (a path), or that works in it."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes().decode(errors="replace")
            where = str((directory / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in line or where.startswith(str(folder)):
            found.append(int(directory.name))
    return found
