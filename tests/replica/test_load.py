import itertools
import sys
import textwrap
import time

import pytest

from muleteer.base.errors import StartError
from muleteer.replica.about import source_files
from muleteer.replica.load import load
from muleteer.replica.traces import own_traceback


@pytest.fixture(autouse=True)
def imports():
    """Modules and sys.path are as before after each test."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


numbers = itertools.count()


def write(folder, source, name=None):
    name = name or f"model_{next(numbers)}"
    file = folder / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(source))
    return file


def loaded(folder, target):
    stages = []
    model = load(target, str(folder), stage=lambda name, seconds: stages.append(name))
    return model, stages


def failure(folder, target):
    with pytest.raises(StartError) as caught:
        loaded(folder, target)
    return caught.value.reason, str(caught.value)


SOURCE = """
count = 0
class Class:
    example = "e"
    def __init__(self):
        global count
        count += 1
    def predict(self, a: int): return a, count
    def close(self): pass
class Callable:
    def __call__(self, a): return a
    def example(self): return "a method is no example"
class Both:
    def predict(self): return "predict"
    def __call__(self): return "call"
class Async:
    async def predict(self): pass
class AsyncCall:
    async def __call__(self): pass
class Static:
    @staticmethod
    def predict(a): return a
class Nothing: pass
class Attribute:
    predict = 5
class Raises:
    def __init__(self): self.open("x")
    def open(self, path): raise OSError("no such disk")
class Needs:
    def __init__(self, path): pass
    def predict(self): pass
class Exits:
    def __init__(self): raise SystemExit(2)
class Property:
    @property
    def predict(self): raise OSError("no weights")
class LazyExample:
    def predict(self, a): pass
    @property
    def example(self): raise SystemExit(3)
def function(a): return a
function.example = 5
async def coroutine(a): return a
instance = Class.__new__(Class)
number = 5
"""


def test_classes_functions_and_what_is_called(tmp_path):
    file = write(tmp_path, SOURCE)
    model, stages = loaded(tmp_path, f"{file.name}:Class")
    assert stages == ["import", "load"]
    assert model.method(1) == (1, 1)
    assert model.example == "e"
    assert model.close is not None
    assert not model.is_async

    def method(name):
        return loaded(tmp_path, f"{file.name}:{name}")[0]

    assert method("Callable").method(3) == 3
    assert method("Callable").example is None
    assert method("Both").method() == "predict"
    assert method("Static").method(4) == 4
    assert method("Async").is_async
    assert method("AsyncCall").is_async
    assert method("coroutine").is_async
    assert method("instance").method(1) == (1, 0)
    function, stages = loaded(tmp_path, f"{file.name}:function")
    assert stages == ["import"]
    assert function.method(1) == 1
    assert function.example == 5
    assert function.close is None


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("Nothing", "no_predict", "neither predict nor __call__"),
        ("Attribute", "no_predict", "neither"),
        ("number", "no_predict", "neither"),
        ("Raises", "constructor_raised", "Raises() raised OSError: no such disk"),
        ("Needs", "constructor_raised", "missing 1 required positional argument: 'path'"),
        ("Exits", "constructor_raised", "SystemExit: 2"),
        ("Property", "constructor_raised", "predict, example and close of Property raised OSError: no weights"),
        ("LazyExample", "constructor_raised", "SystemExit: 3"),
        ("Clas", "target_missing", "did you mean Class"),
        ("Zzzzz", "target_missing", "it defines Class, Callable"),
    ],
)
def test_what_cannot_be_a_model(tmp_path, name, reason, words):
    file = write(tmp_path, SOURCE)
    found, message = failure(tmp_path, f"{file.name}:{name}")
    assert found == reason
    assert words in message


def test_the_traceback_is_the_users(tmp_path):
    file = write(tmp_path, SOURCE)
    _, message = failure(tmp_path, f"{file.name}:Raises")
    frames = [line for line in message.splitlines() if line.startswith("  File")]
    assert len(frames) == 2
    assert all(str(file) in frame for frame in frames)
    assert 'self.open("x")' in message


def test_a_traceback_of_200_000_frames_takes_no_time():
    def dive(depth):
        if not depth:
            raise ValueError("the bottom")
        dive(depth - 1)

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(500_000)
    try:
        dive(200_000)
    except ValueError as error:
        began = time.process_time()
        trace = own_traceback(error)
        assert time.process_time() - began < 1
    finally:
        sys.setrecursionlimit(before)
    assert trace.endswith("ValueError: the bottom")


def test_import_through_their_own_modules(tmp_path):
    inner = write(tmp_path, "def f():\n    import not_there_at_all\nf()")
    file = write(tmp_path, f"import {inner.stem}")
    reason, message = failure(tmp_path, f"{file.name}:Model")
    assert reason == "import_error"
    assert "No module named 'not_there_at_all'" in message
    assert [line for line in message.splitlines() if "importlib" in line or "/muleteer/" in line] == []
    assert str(inner) in message
    assert str(file) in message


def test_missing_files_and_modules(tmp_path):
    write(tmp_path, SOURCE, "fancy_model")
    assert failure(tmp_path, "fancy_modle.py:Class") == (
        "target_missing",
        f"there is no file {tmp_path}/fancy_modle.py; did you mean fancy_model.py?",
    )
    reason, message = failure(tmp_path, "fancy_modle:Class")
    assert reason == "target_missing"
    assert "did you mean fancy_model" in message
    for target in (
        "fancy_model.py",
        "fancy_model.py:",
        ":x",
        "fancy_model.py:a b",
        "no/folder/x.py:X",
        "x" * 5000 + ".py:X",
    ):
        assert failure(tmp_path, target)[0] == "target_missing", target


def test_packages(tmp_path):
    package = f"package_{next(numbers)}"
    write(tmp_path / package, "", "__init__")
    write(tmp_path / package, "from . import part\ndef f(a): return part.VALUE", "model")
    write(tmp_path / package, "VALUE = 3", "part")
    write(tmp_path / package, "import not_there_at_all", "broken")
    model, _ = loaded(tmp_path, f"{package}.model:f")
    assert model.method(1) == 3
    assert failure(tmp_path, f"{package}.modell:f")[0] == "target_missing"
    assert failure(tmp_path, f"{package}.broken:f")[0] == "import_error"
    reason, message = failure(tmp_path, f"{package}/model.py:f")
    assert reason == "import_error"
    assert "served as package.module:Name" in message.splitlines()[0]
    files = source_files((tmp_path,))
    assert [file.rpartition("/")[2] for file in files] == ["__init__.py", "model.py", "part.py"]


def test_a_file_named_like_a_library_module_does_not_replace_it(tmp_path):
    import queue

    write(
        tmp_path, "import dataclasses\n@dataclasses.dataclass\nclass Model:\n    def predict(self): return 1", "queue"
    )
    model, _ = loaded(tmp_path, "queue.py:Model")
    assert model.method() == 1
    assert sys.modules["queue"] is queue


def test_syntax_error_names_file_and_line(tmp_path):
    file = write(tmp_path, "x = 1\ny = (\n")
    reason, message = failure(tmp_path, f"{file.name}:Model")
    assert reason == "import_error"
    assert f"SyntaxError in {file}, line 2: '(' was never closed" in message
