"""What may be said to Ray about one backend's replicas: the setting `ray`, a mapping that travels as JSON.
Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

_OURS = {"CPU": "`cpus`", "GPU": "`gpus`", "memory": "`memory`", "object_store_memory": "no setting"}
"""Resources that are not custom, and what declares them."""


class RayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Attributes:
    resources: custom resources that one replica reserves, by the names given to `ray start --resources`.
    placement: over the nodes, or as few nodes as will do.
    node: the only node that may have them, by its address.
    runtime_env: as Ray's; `working_dir` and `py_modules` may be folders here, which are uploaded.
    """

    resources: dict[str, Annotated[float, Meta(gt=0)]] = {}
    placement: Literal["spread", "pack"] = "spread"
    node: str = ""
    runtime_env: dict[str, Any] = {}


def parse_ray(text: str) -> str:
    """The same options as JSON in one fixed form. Raises ValueError that says what may be written."""
    try:
        options = msgspec.json.decode(text, type=RayOptions)
    except msgspec.ValidationError as error:
        raise ValueError(f"ray: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        example = '{"placement": "pack", "resources": {"fast_disk": 1}}'
        raise ValueError(f"{text!r} is not a JSON object such as {example}") from None
    for name in _OURS.keys() & options.resources.keys():
        raise ValueError(f"ray: resources: {name} is not a custom one; {_OURS[name]} of the backend declares it")
    return msgspec.json.encode(options, order="deterministic").decode()


def ray_options(text: str | None) -> RayOptions:
    """The options that `parse_ray` has checked; None: those of a backend that says nothing."""
    return msgspec.json.decode(text, type=RayOptions) if text is not None else RayOptions()
