"""The limits of one HTTP connection as a value. Must not know what they are applied to."""

from __future__ import annotations

import msgspec

from muleteer.base import limits


class HttpBounds(msgspec.Struct, frozen=True, kw_only=True):
    """`base.limits` unless a test wants shorter ones. Bytes, seconds and counts, as named there."""

    uri_bytes_max: int = limits.URI_BYTES_MAX
    header_field_bytes_max: int = limits.HEADER_FIELD_BYTES_MAX
    header_bytes_max: int = limits.HEADER_BYTES_MAX
    header_fields_max: int = limits.HEADER_FIELDS_MAX
    header_timeout_s: float = limits.HEADER_TIMEOUT_S
    body_timeout_base_s: float = limits.BODY_TIMEOUT_BASE_S
    body_bytes_per_s_min: int = limits.BODY_BYTES_PER_S_MIN
    write_stall_s: float = limits.WRITE_STALL_S
    keep_alive_s: float = limits.KEEP_ALIVE_S
    linger_s: float = limits.LINGER_S
    linger_bytes_max: int = limits.LINGER_BYTES_MAX
    pipeline_max: int = limits.PIPELINE_MAX
    tick_s: float = limits.TICK_S
