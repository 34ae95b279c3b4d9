"""The user's source is read as it is now, not as it was a moment ago. Must not know models.

Python takes bytecode for current if the size of the source and the whole seconds of its time are those that it was made
from. Of two edits within a second that leave the size as it is, the second would never be run. So while a source is
young, bytecode is neither read nor written.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import PathEntryFinder

_YOUNG_S = 2.0  # the second of the edit, and one for file systems whose clock is late


class SourceLoader(SourceFileLoader):
    """As Python's own, but for young files."""

    def get_code(self, fullname: str) -> CodeType | None:
        """See `importlib.abc.InspectLoader`."""
        path = self.get_filename(fullname)
        if time.time() - self.path_stats(path)["mtime"] > _YOUNG_S:
            return super().get_code(fullname)
        return self.source_to_code(self.get_data(path), path)


def read_afresh(root: Path) -> None:
    """From now on, for modules in `root` and below it."""
    top = str(root)
    of_folder = FileFinder.path_hook(
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (SourceLoader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )

    def finder(path: str) -> PathEntryFinder:
        if path != top and not path.startswith(top + os.sep):
            raise ImportError(path)  # another hook's
        return of_folder(path)  # raises the same for what is no folder: an archive is another hook's

    sys.path_hooks.insert(0, finder)
    for path in [path for path in sys.path_importer_cache if path == top or path.startswith(top + os.sep)]:
        del sys.path_importer_cache[path]
