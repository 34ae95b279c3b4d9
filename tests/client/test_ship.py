"""Classes without a module that a replica could import: what is shipped of a script, and each sentence of a refusal."""

import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest

from muleteer.client.errors import CannotShip
from muleteer.client.ship import Named, Shipped, locate

SHIP = """
import json as _json
from muleteer.client import ship as _ship, errors as _errors
try:
    _shipped = _ship.locate({name})
    print(_json.dumps({{"name": _shipped.name, "source": _shipped.source}}))
except _errors.CannotShip as _error:
    print(_json.dumps({{"refused": str(_error)}}))
"""


def run_script(folder, text, name="Model"):
    """What locate() says about `name`, called at the end of a script with this text."""
    script = folder / "train.py"
    script.write_text(textwrap.dedent(text) + SHIP.format(name=name))
    done = subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def load(folder, answer):
    """The class, imported from the shipped module in this process: not the one that defined it."""
    named = Shipped(answer["name"], answer["source"]).write(folder / "shipped")
    path, _, name = named.target.rpartition(":")
    spec = importlib.util.spec_from_file_location("shipped_module", path)
    module = sys.modules["shipped_module"] = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
        del sys.modules["shipped_module"]
    return getattr(module, name)


def test_a_class_goes_with_all_that_it_needs_and_nothing_else(tmp_path):
    answer = run_script(
        tmp_path,
        '''
        """A script."""
        from __future__ import annotations
        import math, re
        import os.path
        from collections import Counter as Bag
        from dataclasses import dataclass

        WORDS = {"a": 1, "b": [2, 3]}
        UNUSED = open(__file__).read()
        Rows = list[dict]
        print_nothing = 0

        @dataclass
        class Item:
            text: str

        def tokens(text):
            return re.findall(r"\\w+", text)

        class Base:
            factor = 2

        class Model(Base):
            """Counts."""
            def predict(self, item: Item, rows: Rows = ()) -> dict[str, int]:
                counted = Bag(tokens(item.text))  # a comment
                return {word: self.factor * WORDS["a"] * n + math.floor(0.5) for word, n in counted.items()}
        ''',
    )
    assert answer["source"] == textwrap.dedent(
        f'''\
        """Model, as {tmp_path / "train.py"} defined it; written by muleteer, to be edited there."""

        from __future__ import annotations

        import math, re
        from collections import Counter as Bag
        from dataclasses import dataclass
        WORDS = {{"a": 1, "b": [2, 3]}}
        Rows = list[dict]


        @dataclass
        class Item:
            text: str


        def tokens(text):
            return re.findall(r"\\w+", text)


        class Base:
            factor = 2


        class Model(Base):
            """Counts."""
            def predict(self, item: Item, rows: Rows = ()) -> dict[str, int]:
                counted = Bag(tokens(item.text))  # a comment
                return {{word: self.factor * WORDS["a"] * n + math.floor(0.5) for word, n in counted.items()}}
        '''
    )
    model = load(tmp_path, answer)()
    item = type(model).predict.__globals__["Item"]
    assert model.predict(item("x y x")) == {"x": 4, "y": 2}


def test_a_function_ships_too(tmp_path):
    answer = run_script(tmp_path, "STEP = 3\ndef up(x: int) -> int:\n    return x + STEP\n", name="up")
    assert load(tmp_path, answer)(4) == 7


def test_what_lies_beside_the_script_is_found_from_elsewhere(tmp_path):
    (tmp_path / "neighbour_of_script.py").write_text("FACTOR = 5\n")
    answer = run_script(
        tmp_path, "import neighbour_of_script as n\nclass Model:\n    def predict(self, x): return x * n.FACTOR\n"
    )
    assert f"sys.path.append({str(tmp_path)!r})" in answer["source"]
    assert load(tmp_path, answer)().predict(2) == 10


def test_the_same_source_is_the_same_file_and_another_is_another(tmp_path):
    one = Shipped("M", "class M: pass\n").write(tmp_path / "deep" / "down")
    assert Shipped("M", "class M: pass\n").write(tmp_path / "deep" / "down") == one
    assert Shipped("M", "class M: x = 1\n").write(tmp_path / "deep" / "down") != one
    assert sorted(file.suffix for file in (tmp_path / "deep" / "down").iterdir()) == [".py", ".py"]
    assert (tmp_path / "deep" / "down").stat().st_mode & 0o777 == 0o700


def test_the_last_of_several_definitions_counts(tmp_path):
    answer = run_script(
        tmp_path,
        """
        A = 1
        class Model:
            def predict(self): return "old"
        A = 2
        class Model:
            def predict(self): return A
        """,
    )
    assert load(tmp_path, answer)().predict() == 2


MODEL = "\nclass Model:\n    def predict(self, text):\n        return {}\n"
MOVE = "move Model into a module of its own and import it"
COMPUTE = "compute it in __init__, or " + MOVE
REFUSED = [
    (
        "WORDS = sorted('ba')" + MODEL.format("WORDS"),
        "it uses WORDS, which is computed (train.py:1: WORDS = sorted('ba')): " + COMPUTE,
    ),
    (
        "import os\nHOME = os.environ['HOME']" + MODEL.format("HOME"),
        "it uses HOME, which is computed (train.py:2: HOME = os.environ['HOME']): " + COMPUTE,
    ),
    (
        "WORDS = {}\nWORDS['a'] = 1" + MODEL.format("WORDS"),
        "it uses WORDS, which has changed since train.py:1: " + MOVE,
    ),
    (
        "A, B = 1, 2" + MODEL.format("B"),
        "it uses B, which is not set by a simple statement (train.py:1): " + MOVE,
    ),
    (
        "try:\n    import json as j\nexcept ImportError:\n    j = None" + MODEL.format("j"),
        "it uses j, which is not set by a simple statement (train.py:1): " + MOVE,
    ),
    (
        "from math import *" + MODEL.format("floor(1)"),
        "it uses floor, which no statement at the top level sets; from math import floor would do; " + MOVE,
    ),
    (
        "globals()['HIDDEN'] = 1" + MODEL.format("HIDDEN"),
        "it uses HIDDEN, which no statement at the top level sets; " + MOVE,
    ),
    (
        MODEL.format("nowhere"),
        "it uses nowhere, which is not defined; " + MOVE,
    ),
    (
        MODEL.format("__file__"),
        "it uses __file__, which would name another file there; " + MOVE,
    ),
    (
        "import random\nSEED = random.random()\ndef deep(): return SEED\ndef outer(): return deep()"
        + MODEL.format("outer()"),
        "deep uses SEED, which is computed (train.py:2: SEED = random.random()): " + COMPUTE,
    ),
    (
        MODEL.format("self.weights") + "Model.weights = [1]\n",
        "its weights was set after the class was defined: set it in the body",
    ),
]


@pytest.mark.parametrize(("script", "sentence"), REFUSED, ids=[sentence.split(":")[0][:40] for _, sentence in REFUSED])
def test_what_would_be_another_class_elsewhere_is_refused(tmp_path, script, sentence):
    assert run_script(tmp_path, script) == {"refused": f"cannot ship Model: {sentence}"}


def test_without_source_there_is_nothing_to_ship(tmp_path):
    code = MODEL.format("1") + SHIP.format(name="Model")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == {
        "refused": "cannot ship Model: its source is not to be found: write it into a file and import it"
    }


def test_cells_of_a_notebook(tmp_path):
    """Cells are compiled one by one under names of their own, and run again when they are mended."""
    cells = [
        "import math\nBIAS = 1",
        "def area(r):\n    return math.floor(math.pi * r)",
        "class Model:\n    def predict(self, r): return 'old'",
        "class Model:\n    def predict(self, r): return area(r) + BIAS",
        "BIAS = 2",
    ]
    runner = tmp_path / "kernel.py"
    runner.write_text(
        f"import linecache, sys\nmain = sys.modules['__main__']\ndel main.__file__\nfor n, cell in enumerate({cells!r}):\n"
        "    name = f'/tmp/ipykernel_7/{n}.py'\n"
        "    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)\n"
        "    exec(compile(cell, name, 'exec'), vars(main))\n" + SHIP.format(name="Model")
    )
    done = subprocess.run([sys.executable, runner], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path, json.loads(done.stdout))().predict(2) == 8


# where a class has a module


def import_from(folder, monkeypatch, name):
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module(name)


def test_a_class_of_a_module_is_named_by_its_file(tmp_path, monkeypatch):
    (tmp_path / "plain_module_of_user.py").write_text("class Model:\n    class Inner: pass\n")
    module = import_from(tmp_path, monkeypatch, "plain_module_of_user")
    assert locate(module.Model) == Named(f"{tmp_path}/plain_module_of_user.py:Model", str(tmp_path))
    with pytest.raises(CannotShip, match=r"^Inner is defined inside Model: a replica imports only what is at the"):
        locate(module.Model.Inner)


def test_a_class_of_a_package_is_named_by_its_module(tmp_path, monkeypatch):
    package = tmp_path / "package_of_user" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "package_of_user" / "__init__.py").write_text("from .deep.models import Model\n")
    (package / "models.py").write_text("class Model: pass\n")
    module = import_from(tmp_path, monkeypatch, "package_of_user")
    assert locate(module.Model) == Named("package_of_user.deep.models:Model", str(tmp_path))


def local_class():
    class Model:
        pass

    return Model


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (object(), "expected a class, a function or a TARGET, not a object object: each replica makes its own"),
        (3, "expected a class, a function or a TARGET, not a int object: each replica makes its own"),
        (lambda text: text, "a lambda has no name that a replica could import: write it as a function"),
        (
            local_class(),
            "Model is defined inside local_class: a replica imports only what is at the top level",
        ),
        (
            type("Made", (), {"__module__": "json"}),
            "json.Made is another object than this one: there is nothing to import",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_nobody_could_import_is_refused(model, sentence):
    with pytest.raises(CannotShip) as caught:
        locate(model)
    assert str(caught.value) == sentence
