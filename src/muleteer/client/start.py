"""Starts a server for a Python program, or finds one. Must not know what is served.

A server that is not detached is tethered: it holds the read end of a pipe whose write end only this process has, and
stops when that is closed. So it ends with this process, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from muleteer.client.admin import Admin
from muleteer.client.client import Client
from muleteer.client.errors import AdminUnreachable, ServerNotStarted
from muleteer.spec.run_dir import find_run_dir

ALREADY_RUNNING = 4
"""Exit status of `muleteer serve` where a live server holds the run directory."""
_OPTIONS = ("host", "port")
_tethers: list[int] = []
"""Write ends, open as long as this process lives; never in a child, or the server would outlive us."""


def start(
    detached: bool = False,
    http_options: Mapping[str, str | int] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
) -> Client:
    """Start a server with nothing declared, or connect to the one that serves in `run_dir`.

    Args:
        detached: it survives this process. Otherwise it ends with it, also if this process is killed; a server that
            was there already goes on as it was.
        http_options: `host` (default 127.0.0.1) and `port` (default 8000; 0 picks a free one).
        run_dir: default: as for the command line.

    Raises:
        ServerNotStarted: the port is in use, the directory cannot be used, …: what `muleteer serve` said.
    """
    options = dict(http_options or {})
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise TypeError(f"http_options has no {unknown[0]!r}: it takes {' and '.join(_OPTIONS)}")
    found = find_run_dir(None if run_dir is None else os.fspath(run_dir), os.environ)
    arguments = ["--empty", "--detach", "--run-dir", found]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    status, said = _serve(arguments, tethered=not detached)
    if status == ALREADY_RUNNING:
        return _connect_to_running(found, options)
    if status != 0:
        raise ServerNotStarted(said or f"muleteer serve ended with status {status}", status)
    return Client(Admin(Path(found, "admin.sock")), owned=not detached)


def connect(
    run_dir: str | os.PathLike[str] | None = None, *, url: str | None = None, token: str | None = None
) -> Client:
    """A client of a server that runs: on this machine by its run directory, elsewhere by `url` and `token`.

    Raises AdminUnreachable if there is none.
    """
    if url is not None:
        client = Client(Admin(url, token=token))
    else:
        found = find_run_dir(None if run_dir is None else os.fspath(run_dir), os.environ)
        admin = Admin(Path(found, "admin.sock"))
        if not admin.is_there():
            raise AdminUnreachable(f"no muleteer runs in {found}: muleteer.start() would start one")
        client = Client(admin)
    client.status()
    return client


def _serve(arguments: list[str], *, tethered: bool) -> tuple[int, str]:
    """Exit status of `muleteer serve --detach` and what it complained about."""
    command = [sys.executable, "-P", "-m", "muleteer.cli", "serve", *arguments]
    if not tethered:
        return _run(command, ())
    reading, writing = os.pipe()
    _tethers.append(writing)
    try:
        status, said = _run([*command, "--tether", str(reading)], (reading,))
    finally:
        os.close(reading)
    if status != 0:
        _tethers.remove(writing)
        os.close(writing)
    return status, said


def _run(command: list[str], descriptors: tuple[int, ...]) -> tuple[int, str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=descriptors, check=False
    )
    return done.returncode, done.stderr.strip().removeprefix("muleteer: ")


def _connect_to_running(run_dir: str, options: Mapping[str, str | int]) -> Client:
    client = connect(run_dir)
    port = urlsplit(client.address).port
    if options.get("port") not in (None, 0, port):
        raise ServerNotStarted(
            f"a muleteer serves in {run_dir} on port {port}, not {options['port']}: stop it, or choose another run_dir",
            ALREADY_RUNNING,
        )
    return client


def _let_go() -> None:
    """In a forked child."""
    while _tethers:
        os.close(_tethers.pop())


os.register_at_fork(after_in_child=_let_go)
