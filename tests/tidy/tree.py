"""The repository as the tidy tests see it: parsed modules of src, and the files that git tracks or would track."""

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Module:
    """One source file. `name` is dotted, e.g. `muleteer.wire.frames`; `path` is relative to the repository."""

    name: str
    path: str
    is_package: bool
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """`wire`; the top of the package (`muleteer/__init__.py`, `__main__.py`) is ``."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 2 or (len(parts) == 2 and self.is_package) else ""


def parse(file: Path, base: Path) -> Module:
    """`file` as a Module whose name is relative to `base`."""
    relative = file.relative_to(base)
    parts = list(relative.with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    text = file.read_text()
    path = file.relative_to(ROOT) if file.is_relative_to(ROOT) else relative
    return Module(".".join(parts[:-1] if is_package else parts), str(path), is_package, text, ast.parse(text))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of src."""
    return tuple(parse(file, SRC) for file in sorted((SRC / "muleteer").rglob("*.py")))


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that is committed or would be; without git (an unpacked archive), everything but dot folders."""
    asked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if asked.returncode == 0:
        names = asked.stdout.decode().split("\0")
        return tuple(file for name in names if name and (file := ROOT / name).is_file())
    skipped = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    return tuple(file for file in ROOT.rglob("*") if file.is_file() and not skipped & set(file.parts))


def text_of(file: Path) -> str:
    """The text of a file; a binary one has none."""
    data = file.read_bytes()
    return "" if b"\0" in data else data.decode(errors="replace")


def imported_names(module: Module) -> list[tuple[str, int]]:
    """Dotted names that the module imports anywhere, deferred ones included, each with its line."""
    found = []
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("__import__", "importlib.import_module", "import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.append((str(node.args[0].value), node.lineno))
    return found
