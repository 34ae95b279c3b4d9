"""One short text for all that makes a replica what it is: if it differs, the replica is outdated. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from muleteer.spec.settings import SETTINGS, BackendSettings, BackendSpec

_REPLACING = tuple(name for name in BackendSettings.__struct_fields__ if SETTINGS[name].cost == "replace")


def fingerprint(backend: BackendSpec) -> str:
    """16 hexadecimal digits over the target, its folder, and every setting whose change costs new replicas.

    What is at its default is left out, so that a version with more settings does not outdate what runs.
    """
    given = {name: getattr(backend.settings, name) for name in _REPLACING}
    given = {name: value for name, value in given.items() if value != SETTINGS[name].default}
    parts = [backend.target, backend.base_dir, given]
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()
