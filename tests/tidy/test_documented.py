"""Everything a user can meet is written down: settings, limits, codes, flags, verbs, environment; and links lead somewhere."""

import ast
import re

import pytest

from muleteer.base.errors import CODES, RequestError, UsageError
from muleteer.base.limits import LIMITS
from muleteer.cli.main import VERBS
from muleteer.spec.settings import SETTINGS
from tests.tidy.tree import DOCS, ROOT, SRC, modules, repository_files

MARKDOWN = [file for file in repository_files() if file.suffix == ".md"]


def read(name):
    file = DOCS / name
    assert file.exists(), f"docs/{name} does not exist"
    return file.read_text()


def constants(room):
    """Every string constant in a room, docstrings excepted."""
    for module in modules():
        if module.room != room:
            continue
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


# codes


def test_codes_are_total():
    """Every class of the tree with a code is in CODES under it, once, with a status that fits its execution."""
    for kind in subclasses(RequestError):
        assert kind.code, f"{kind.__name__} has no code"
        assert CODES[kind.code] is kind, f"{kind.code} stands for two classes"
        assert 400 <= kind.status <= 599
        assert kind.execution in ("not_started", "unknown", "completed")
        if kind.status == 503:
            assert (kind.execution, kind.retryable) == ("not_started", True)
        if 400 <= kind.status < 500:
            assert kind.execution == "not_started"


def test_docs_list_every_code_with_its_meaning():
    row = re.compile(r"^\| `(\w+)` \| (\d{3}) \| (\w+) \| (yes|no) \|", re.MULTILINE)
    listed = {
        code: (int(status), execution, again == "yes")
        for code, status, execution, again in row.findall(read("behaviour.md"))
    }
    assert listed == {code: (kind.status, kind.execution, kind.retryable) for code, kind in CODES.items()}


def test_docs_list_every_exit_status():
    text = "\n".join(file.read_text() for file in DOCS.glob("*.md"))
    missing = [
        f"{kind.__name__} ({kind.exit_status})"
        for kind in {UsageError, *subclasses(UsageError)}
        if not re.search(rf"^\| `?{kind.exit_status}`? \|", text, re.MULTILINE)
    ]
    assert missing == []


# settings and limits


def test_docs_list_every_setting():
    text = read("settings.md")
    missing = [s.name for s in SETTINGS.values() if f"`{s.flag}`" not in text or f"`{s.env}`" not in text]
    assert missing == []


def test_every_setting_has_a_description_a_reason_and_a_cost():
    for setting in SETTINGS.values():
        assert setting.description, setting.name
        assert setting.why, setting.name
        assert setting.cost in ("live", "reconfigure", "replace", "restart"), setting.name


def test_every_setting_is_read_somewhere():
    """A setting without an effect is a lie."""
    declared = "src/muleteer/spec/settings.py"
    read_names = {
        node.attr
        for module in modules()
        if module.path != declared
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert sorted(set(SETTINGS) - read_names) == []


def test_every_limit_is_used():
    """Found by its constant, in any module but the one that declares it."""
    declared = next(module for module in modules() if module.name == "muleteer.base.limits")
    names = [
        node.targets[0].id
        for node in declared.tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name)
    ]
    assert len(names) == len(LIMITS)
    rest = "\n".join(module.text for module in modules() if module is not declared)
    assert [name for name in names if not re.search(rf"\b{name}\b", rest)] == []


def test_every_limit_has_a_reason():
    assert [limit.name for limit in LIMITS.values() if len(limit.why) < 10] == []


# the command line


def flags():
    """Flags of the commands: those derived from settings, and those written in `cli`."""
    written = {value for value in constants("cli") if re.fullmatch(r"--[a-z][a-z0-9-]*[a-z]", value)}
    return (written - {"--help", "--version"}) | {setting.flag for setting in SETTINGS.values()}


def test_docs_list_every_command():
    text = read("cli.md")
    assert [verb for verb in VERBS if f"`muleteer {verb}" not in text] == []


def test_every_command_has_its_file():
    assert [verb for verb in VERBS if not (SRC / "muleteer" / "cli" / f"{verb}.py").exists()] == []


def test_docs_list_every_flag():
    text = read("cli.md")
    assert sorted(flag for flag in flags() if not re.search(rf"{flag}(?![\w-])", text)) == []


def test_docs_name_no_flag_that_does_not_exist():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z]", read("cli.md")))
    known = flags() | {
        f"--no-{setting.name.replace('_', '-')}" for setting in SETTINGS.values() if setting.type is bool
    }
    assert sorted(named - known - {"--help", "--version"}) == []


def test_docs_list_every_environment_variable():
    text = "\n".join(file.read_text() for file in DOCS.glob("*.md"))
    names = {
        node.value
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"MULETEER_[A-Z_]*[A-Z]", node.value)
    }
    assert sorted(name for name in names if name not in text) == []


# the text itself


def anchors(file):
    heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_resolve(file):
    text = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_named_in_text_exist(file):
    named = re.findall(r"`((?:src|tests|docs|bench|examples|scripts|requirements)/[\w./-]*\w/?)`", file.read_text())
    missing = [name for name in named if not (ROOT / name).exists() and not name.startswith("bench/results")]
    assert missing == []


def test_every_make_target_says_what_it_does_and_is_in_the_docs():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    text = (DOCS / "hacking.md").read_text() + (ROOT / "README.md").read_text()
    undocumented = [target for target in targets - {"help", "clean"} if f"make {target}" not in text]
    silent = [target for target in targets if not re.search(rf"^{target}:.*## ", makefile, re.MULTILINE)]
    assert (undocumented, silent) == ([], [])
