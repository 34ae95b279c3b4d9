"""Near names for what was mistyped: flags, verbs, settings, files. Must not know what the names mean."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean X?`, or nothing when no known name is close. Meant to be put behind a message."""
    from difflib import get_close_matches  # 4 ms, needed only after a mistake

    folded = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), folded, n=1, cutoff=cutoff)
    return f"; did you mean {folded[close[0]]}?" if close else ""
