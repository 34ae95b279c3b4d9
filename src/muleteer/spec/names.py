"""Names of backends and endpoints, and what any name needs in order to travel."""

from __future__ import annotations

import re

from muleteer.base.errors import SpecError

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
_NAME = re.compile(NAME_PATTERN)


def is_utf8(text: str) -> bool:
    """Whether `text` can travel as JSON: a path may hold any bytes, kept by Python as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_name(name: str, what: str) -> str:
    """`name`, if it is one. Raises SpecError that says what may stand there. `what` is e.g. "backend name"."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{what} {name!r} is not allowed: letters, digits and . _ : - only, "
            "starting with a letter or digit, at most 128 characters"
        )
    return name
