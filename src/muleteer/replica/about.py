"""What a replica tells the supervisor when it is ready: files, parameters, load time, memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import msgspec

from muleteer.base.limits import FILES_WATCHED_MAX
from muleteer.replica.answer import example_body
from muleteer.replica.load import Model

_EXAMPLE_BYTES_MAX = 64 * 1024  # it travels in a control message, for curl lines
_OURS = str(Path(__file__).resolve().parent.parent) + "/"


def info(model: Model, base_dir: str, load_s: float) -> dict[str, Any]:
    """The `info` of `ready`. `files`: the sources that a change of the model may touch, sorted. `example`: as JSON."""
    found: dict[str, Any] = {
        "files": source_files((model.root, Path(base_dir).resolve())),
        "parameters": model.signature.texts(),
        "returns": model.returns,
        "batch": model.inputs is not None,
        "load_s": round(load_s, 4),
        "rss_bytes": rss_bytes(),
    }
    if model.example is not None and len(body := example_body(model)) <= _EXAMPLE_BYTES_MAX:
        found["example"] = msgspec.json.decode(body)
    return found


def source_files(roots: tuple[Path, ...]) -> list[str]:
    """Sources of loaded modules under `roots`, without installed packages and muleteer itself."""
    prefixes = tuple({f"{str(root).rstrip('/')}/" for root in roots})
    installed = (f"{sys.prefix}/", f"{sys.base_prefix}/lib", _OURS)
    files = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
    own = sorted(
        file
        for file in files
        if file.startswith(prefixes)
        and not file.startswith(installed)
        and "/site-packages/" not in file
        and "/dist-packages/" not in file
    )
    return own[:FILES_WATCHED_MAX]


def rss_bytes() -> int:
    """Resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no /proc: the peak is the next best figure
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * resource.getpagesize()
