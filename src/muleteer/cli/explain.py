"""`muleteer explain`: why there are as many replicas, as long a queue and as large batches as there are. Quick to
start, like `status`.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from muleteer.base.errors import UsageError
from muleteer.cli.change import Steering
from muleteer.cli.flags import Parser, add_run_dir
from muleteer.cli.output import harmless, say
from muleteer.client.admin import path_of

_LABEL = 9
_WIDTH_MIN = 40


def run(arguments: Sequence[str]) -> int:
    """Print the explanation of one endpoint or backend."""
    parser = Parser("explain", "Say why an endpoint's backends are sized as they are, and what one more would change.")
    parser.add_argument("name", metavar="ENDPOINT|BACKEND")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_run_dir(parser)
    found = parser.parse(arguments)
    answer = _ask(Steering(found), found.name)
    if found.json:
        import json

        say(json.dumps(answer, indent=2))
    else:
        say(render(answer, shutil.get_terminal_size((100, 24)).columns))
    return 0


def _ask(server: Steering, name: str) -> Any:
    """An endpoint of this name, else a backend. Raises UsageError."""
    declared = server.get("/v1/declared")["declared"]
    for kind in ("endpoints", "backends"):
        if name in declared.get(kind, {}):
            return server.get(path_of(kind, name, "explain"))
    known = sorted({*declared.get("endpoints", {}), *declared.get("backends", {})})
    raise UsageError(f"there is no endpoint or backend {name!r}; there are: {', '.join(known) or 'none'}")


def render(answer: dict[str, Any], width: int) -> str:
    """The text of an endpoint's or a backend's explanation."""
    if "endpoint" not in answer:
        return _backend(answer, width)
    whole = sum(answer["traffic"].values()) or 1
    shares = (f"{name} {100 * weight / whole:.3g}%" for name, weight in answer["traffic"].items())
    head = f"endpoint {answer['endpoint']}  {answer['route']}  {', '.join(shares)}"
    return "\n\n".join([head, *(_backend(each, width) for each in answer["backends"])])


def _backend(answer: dict[str, Any], width: int) -> str:
    lines = [f"backend {answer['backend']}  {answer['state']}"]
    for sentence in answer["sentences"]:
        label = f"  {sentence['topic']:<{_LABEL}} "
        lines += textwrap.wrap(
            harmless(sentence["text"]),
            max(width, _WIDTH_MIN),
            initial_indent=label,
            subsequent_indent=" " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
