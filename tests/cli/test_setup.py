"""Set-up as a newcomer meets it: make targets, the locked requirements, what is said where something is missing."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from muleteer.cli.serve import read
from tests.tidy.tree import ROOT

REQUIREMENTS = ("muleteer", "examples", "dev")


def sh(*command, **environment):
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


def only(directory, **programs):
    """A folder to be PATH: these scripts, and the few real tools that the scripts need."""
    for name, text in programs.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    for name in ("sh", "id", "env"):
        if not (directory / name).exists():
            (directory / name).symlink_to(shutil.which(name))
    return str(directory)


def test_an_old_python_is_named_with_what_is_needed(tmp_path):
    old = 'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac'
    done = sh("/bin/sh", "scripts/make-venv", PATH=only(tmp_path, python3=old), PYTHON="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "muleteer needs Python 3.11 or later with venv. python3 is Python 3.9.2. Set PYTHON=/path/to/python3.\n"
    )


def test_a_python_without_venv_is_named_with_the_remedy(tmp_path):
    bare = 'case "$2" in *ensurepip*) exit 1;; esac'
    done = sh("/bin/sh", "scripts/make-venv", PATH=only(tmp_path, python3=bare), PYTHON="")
    assert done.returncode == 1
    assert "python3 has no venv module (Debian: apt-get install python3-venv)." in done.stderr


def test_no_python_at_all(tmp_path):
    done = sh("/bin/sh", "scripts/make-venv", PATH=only(tmp_path), PYTHON="")
    assert (done.returncode, done.stderr) == (
        1,
        "muleteer needs Python 3.11 or later with venv. No python3 was found. Set PYTHON=/path/to/python3.\n",
    )


def test_a_newer_python_beside_an_old_one_is_taken(tmp_path):
    old = "exit 1"
    new = 'case "$1" in -m) echo "made with $*";; esac'
    path = only(tmp_path, **{"python3": old, "python3.12": new})
    assert sh("/bin/sh", "scripts/make-venv", PATH=path, PYTHON="").stdout == "made with -m venv .venv\n"


def test_debian_packages_are_left_alone_when_they_are_there(tmp_path):
    path = only(tmp_path, wrk="", nginx="", **{"apt-get": "echo called; exit 1"})
    done = sh("/bin/sh", "scripts/debian-packages", PATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_debian_packages_that_cannot_be_installed_are_named(tmp_path):
    done = sh(
        "/bin/sh", "scripts/debian-packages", PATH=only(tmp_path, nginx="", **{"apt-get": "exit 1", "sudo": "exit 1"})
    )
    assert done.returncode == 0
    assert done.stderr.startswith("missing Debian packages: wrk ")


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_is_pinned_with_hashes(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.findall(r"^[^\s#].*?(?=^[^\s#]|\Z)", text, re.MULTILINE | re.DOTALL)
    assert entries
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,]+\])?==[\w.+!-]+ ", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_the_lock_holds_what_the_project_declares():
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    locked = (ROOT / "requirements" / "muleteer.txt").read_text()
    for line in [*declared, *(ROOT / "requirements" / "muleteer.in").read_text().splitlines()]:
        if line and not line.startswith("#"):
            name = re.match(r"[\w.-]+", line)[0].lower()
            assert re.search(rf"^{name}==", locked, re.MULTILINE), f"{name} is not locked: make lock"


def test_one_environment_can_hold_all_locks():
    """A package that two locks name has the same versions in both."""
    versions = {}
    for name in REQUIREMENTS:
        found = {}
        for package, version in re.findall(
            r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE
        ):
            found.setdefault(package, set()).add(version)
        for package, pinned in found.items():
            assert versions.setdefault(package, pinned) == pinned, package


def test_make_serve_declares_the_two_examples(monkeypatch):
    line = next(line for line in sh("make", "-n", "serve").stdout.splitlines() if "muleteer serve" in line)
    monkeypatch.chdir(ROOT)
    task, detach = read(shlex.split(line)[2:])
    declared = task.declared
    assert [(each.name, each.route) for each in declared.endpoints] == [
        ("FancyModel", "/predict"),
        ("Translator", "/translate"),
    ]
    assert not detach


def test_make_test_is_what_ci_runs():
    steps = sh("make", "-n", "test").stdout
    for step in ("scripts/debian-packages", "ruff check .", "ruff format --check .", "mypy", "-m pytest"):
        assert step in steps
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_make_alone_shows_the_targets():
    shown = sh("make").stdout
    for target in ("setup", "serve", "test", "chaos", "fuzz", "bench", "lock"):
        assert re.search(rf"^  make {target} +\w", shown, re.MULTILINE)
