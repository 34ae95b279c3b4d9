"""What a replica is told at its start: the JSON object in `python -m muleteer.replica CONFIG`."""

from __future__ import annotations

from typing import Literal

import msgspec

MIB = 1024 * 1024
Batch = Literal["auto", "off", "list", "stack"]


class ForkRequest(msgspec.Struct, frozen=True):
    """What a template is asked: to become what `argv` says (its last word is a ReplicaConfig), with `env` added to its
    environment. Descriptors come with it: control channel, output, then one for each of `sockets`.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    sockets: tuple[str, ...]


class ReplicaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One replica of one backend.

    Attributes:
        backend: name of the backend, told to every gateway in READY.
        replica: id of this replica, e.g. `FancyModel-1`; shown in `ps` and in logs.
        target: `path/file.py:Name` or `package.module:Name`.
        base_dir: where a relative file starts from, and where a package is looked for.
        concurrency: calls, or batches, worked on at once; above 1 a plain `predict` runs in threads.
        batch: as the setting of that name.
        max_body: largest request body in bytes.
        debug: send the model's traceback to the client.
        secret: what a gateway must show; it comes in the environment, as everybody can read a command line.
    """

    backend: str
    replica: str
    target: str
    base_dir: str
    concurrency: int = 1
    batch: Batch = "auto"
    max_body: int = 64 * MIB
    debug: bool = False
    secret: str = ""
