"""A curl line that works when pasted, from what a replica said with `ready`. Must not know processes or settings."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping

EXAMPLE_CHARS_MAX = 1000
"""A longer example would fill the screen; the line is then made from the parameters."""

_PARAMETER = re.compile(r"(?P<name>\w+)(?::\s*(?P<type>[^=]+?))?\s*(?P<default>=.*)?", re.DOTALL)
_SAMPLES: dict[str, object] = {"str": "hello", "int": 1, "float": 1.0, "bool": True}


def curl_line(url: str, info: Mapping[str, object]) -> str:
    """`curl … URL`. `info` of a replica: `example` (JSON value), else `parameters` (texts like `top_k: int = 5`)."""
    return f"curl -H 'content-type: application/json' -d {shlex.quote(sample_body(info))} {shlex.quote(url)}"


def sample_body(info: Mapping[str, object]) -> str:
    """One JSON input of the model: its own example, or one value for each parameter without a default."""
    if "example" in info:
        text = _dump(info["example"])
        if len(text) <= EXAMPLE_CHARS_MAX:
            return text
    parameters = info.get("parameters")
    body: dict[str, object] = {}
    for text in parameters if isinstance(parameters, list) else []:
        match = _PARAMETER.fullmatch(str(text))
        if match is not None and not match["default"]:
            kind = (match["type"] or "str").strip()
            body[match["name"]] = _SAMPLES.get(kind, [] if kind.startswith(("list", "tuple")) else {})
    return _dump(body)


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # Escaped where a terminal could take a character for an order, or a copy would lose it.
    return text if text.isprintable() else json.dumps(value)
