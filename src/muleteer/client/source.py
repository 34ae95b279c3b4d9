"""What Python source binds at its top level, and which names a piece of it needs. Must not know live values.

A binding is one top-level statement that gives a name its value. Only some kinds can be taken out of their module and
still mean the same: imports, functions, classes and literals.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["import", "def", "literal", "expression", "other"]
"""`expression`: a single name set to what is no literal. `other`: set within a compound statement, unpacked, …"""


class Binding(NamedTuple):
    """One statement that binds `name`. `text` is its source; `line` counts from 1, decorators included."""

    name: str
    kind: Kind
    node: ast.stmt
    file: str
    line: int
    text: str


class Source:
    """One file, or one cell of a notebook. Raises SyntaxError, ValueError where it is no Python."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._text = text
        self._lines = text.splitlines(keepends=True)
        self.tree = ast.parse(text, file)

    def bindings(self) -> Iterator[Binding]:
        """Every binding at the top level, in order."""
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                continue
            for name, kind in _bound(node):
                yield Binding(name, kind, node, self.file, _first_line(node), self._segment(node))

    def futures(self) -> set[str]:
        """Names of the `__future__` imports."""
        return {
            alias.name
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            for alias in node.names
        }

    def stars(self) -> list[str]:
        """Modules of which everything is imported."""
        return [
            node.module or "."
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
        ]

    def _segment(self, node: ast.stmt) -> str:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return "".join(self._lines[_first_line(node) - 1 : node.end_lineno]).rstrip()
        return ast.get_source_segment(self._text, node) or ast.unparse(node)


def needed(text: str) -> set[str]:
    """The global names that running `text` and what it defines may read, builtins included; annotations too."""
    return _globals(symtable.symtable(text, "<shipped>", "exec")) | annotated(text)


def annotated(text: str) -> set[str]:
    """The names in the annotations of `text`, quoted ones too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            names |= _annotation_names(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            names |= _annotation_names(node.returns)
    return names


def class_names(text: str) -> set[str]:
    """What the body of the class in `text` binds."""
    table = symtable.symtable(text, "<shipped>", "exec").get_children()[0]
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()} | {
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_namespace()
    }


def _globals(table: symtable.SymbolTable) -> set[str]:
    if table.get_type() == "module":
        found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    else:
        found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return found.union(*(_globals(child) for child in table.get_children()))


def _annotation_names(node: ast.expr) -> set[str]:
    names: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            try:
                quoted = ast.parse(part.value, mode="eval").body
            except SyntaxError:  # a text inside Literal[…]
                continue
            names |= {inner.id for inner in ast.walk(quoted) if isinstance(inner, ast.Name)}
    return names


def _bound(node: ast.stmt) -> Iterator[tuple[str, Kind]]:
    match node:
        case ast.Import(names=names):
            yield from ((alias.asname or alias.name.partition(".")[0], "import") for alias in names)
        case ast.ImportFrom(names=names):
            yield from ((alias.asname or alias.name, "import") for alias in names if alias.name != "*")
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name, "def"
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, "literal" if _is_literal(value) else "expression"
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            yield name, "literal" if _is_literal(value) else "expression"
        case _:
            for part in ast.walk(node):
                match part:
                    case ast.Name(id=name, ctx=ast.Store()):
                        yield name, "other"
                    case ast.alias(name=name, asname=other):
                        yield other or name.partition(".")[0], "other"
                    case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                        yield name, "other"


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


def _first_line(node: ast.stmt) -> int:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.decorator_list:
        return min(node.lineno, *(decorator.lineno for decorator in node.decorator_list))
    return node.lineno
