"""What a TARGET names, without running it."""

import pytest

from muleteer.base.errors import TargetError
from muleteer.spec.targets import Target, check_target, parse_target


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fancy_model.py").write_text(
        "import os\nraise SystemExit('running this is an error')\n"
        "class FancyModel:\n    def predict(self, text): ...\n"
        "def shout(text): ...\nmodel = FancyModel()\n"
        "try:\n    import json as parser\nexcept ImportError:\n    class Late: ...\n"
    )
    (tmp_path / "broken.py").write_text("def f(:\n    pass\n")
    (tmp_path / "open_ended.py").write_text("from os.path import *\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("raise SystemExit\n")
    (tmp_path / "package" / "models.py").write_text("class Model: ...\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a/b.py:Name", Target("file", "a/b.py", "Name")),
        ("./b.py:model", Target("file", "./b.py", "model")),
        ("package.module:Name", Target("module", "package.module", "Name")),
        ("C:/odd:place.py:Name", Target("file", "C:/odd:place.py", "Name")),
    ],
)
def test_a_target_is_taken_apart(text, target):
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "fancy_model.py:FancyModel",
        "./fancy_model.py:shout",
        "fancy_model.py:model",
        "fancy_model.py:parser",
        "fancy_model.py:Late",
        "fancy_model:FancyModel",
        "open_ended.py:join",
        "package.models:Model",
        "json.decoder:JSONDecoder",
        "math:sqrt",
    ],
)
def test_good_targets_pass_and_nothing_is_run(folder, text):
    check_target(text, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fancy_model.py", "target 'fancy_model.py' names no class or function: write fancy_model.py:FancyModel"),
        ("fancy_model.py:", "target 'fancy_model.py:' names no class or function: write fancy_model.py:FancyModel"),
        ("nothing", "target 'nothing' names no class or function: write nothing:NAME"),
        ("", "target '' names no class or function: write file.py:NAME"),
        ("fancy_model.py:1x", "target 'fancy_model.py:1x': '1x' is not the name of a class or function"),
        ("fancy model:X", "target 'fancy model:X': 'fancy model' is neither a .py file nor a module"),
        (
            "fancy_modle.py:X",
            "target 'fancy_modle.py:X': there is no file fancy_modle.py; did you mean fancy_model.py?",
        ),
        ("gone/x.py:X", "target 'gone/x.py:X': there is no directory gone"),
        ("package/:X", "target 'package/:X': 'package/' is neither a .py file nor a module"),
        ("folder.py:X", "target 'folder.py:X': folder.py is a directory, not a .py file"),
        ("fancy_model.py:A.b", "target 'fancy_model.py:A.b': 'A.b' is not the name of a class or function"),
        (
            "fancy_model.py:FancyModle",
            "target 'fancy_model.py:FancyModle': fancy_model.py defines no 'FancyModle'; did you mean FancyModel?",
        ),
        (
            "fancy_model.py:Zzz",
            "target 'fancy_model.py:Zzz': fancy_model.py defines no 'Zzz'; it defines FancyModel, shout, Late",
        ),
        ("no.such.module:X", "target 'no.such.module:X': there is no module 'no' on the path"),
        ("package.gone:X", "target 'package.gone:X': there is no module 'package.gone' on the path"),
        ("package.models:X", "target 'package.models:X': package/models.py defines no 'X'; it defines Model"),
    ],
)
def test_a_bad_target_is_refused_in_one_line(folder, text, message):
    with pytest.raises(TargetError) as caught:
        check_target(text, folder)
    assert str(caught.value) == message


def test_a_syntax_error_has_file_and_line(folder):
    with pytest.raises(TargetError) as caught:
        check_target("broken.py:f", folder)
    assert str(caught.value).startswith(f"target 'broken.py:f': {folder}/broken.py:1: ")


def test_a_file_of_null_bytes_is_refused(folder):
    (folder / "binary.py").write_bytes(b"\0\0")
    with pytest.raises(TargetError, match=r"binary\.py"):
        check_target("binary.py:X", folder)


def test_bytes_that_are_no_text_are_refused_where_they_stand(folder):
    for text, base_dir in (("b\udcff.py:X", folder), ("fancy_model.py:FancyModel", folder / "b\udcff")):
        with pytest.raises(TargetError, match="is not UTF-8"):
            check_target(text, base_dir)
