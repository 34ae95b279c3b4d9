"""The shape of muleteer.yaml as JSON: there and back, and mistakes by their key."""

import json

import pytest
from hypothesis import given, settings

from muleteer.spec.settings import BackendSpec, Declared, ServerSettings
from muleteer.spec.shape import (
    ShapeError,
    read_backend,
    read_declared,
    read_endpoint,
    write_backend,
    write_declared,
    write_endpoint,
)
from tests.spec.test_file import declarations


@settings(max_examples=60)
@given(declarations())
def test_there_and_back_through_json(declared):
    shape = json.loads(json.dumps(write_declared(declared)))
    names = [backend.name for backend in declared.backends]
    for backend in declared.backends:
        found = read_backend(backend.name, write_backend(backend), base_dir="/", check_files=False)
        assert found == backend
    for endpoint in declared.endpoints:
        assert read_endpoint(endpoint.name, write_endpoint(endpoint), backends=names) == endpoint
    for name, backend in shape["backends"].items():
        assert read_backend(name, backend, base_dir="/", check_files=False).name == name


def test_a_whole_file(tmp_path):
    (tmp_path / "m.py").write_text("class M:\n    def predict(self, x): ...\n")
    shape = {"backends": {"a": {"model": "m.py:M"}}, "server": {"port": 1}}
    backend = BackendSpec(name="a", target="m.py:M", base_dir=str(tmp_path))
    found = read_declared(shape, base_dir=str(tmp_path))
    assert found == Declared(server=ServerSettings(port=1), backends=(backend,))
    with pytest.raises(ShapeError) as caught:
        read_declared({"backends": {"a": {"model": "n.py:M", "timeout": "x"}}, "server": 1}, base_dir=str(tmp_path))
    problems = sorted(caught.value.problems)
    assert [problem.partition(": ")[0] for problem in problems] == ["backends.a.model", "backends.a.timeout", "server"]


@pytest.mark.parametrize("value", [None, 1, "x", [], {"backends": []}, {"backends": {"-": {}}}, {"more": {}}])
def test_what_is_no_file(value):
    with pytest.raises(ShapeError):
        read_declared(value, base_dir="/")


@pytest.mark.parametrize("base_dir", ["", "relative", "/a\0b"])
def test_a_base_dir_is_absolute(base_dir):
    with pytest.raises(ShapeError, match="base_dir"):
        read_declared({}, base_dir=base_dir)


def test_a_secret_is_neither_written_nor_read():
    declared = Declared(server=ServerSettings(admin_token="correct-horse-battery"))
    assert write_declared(declared)["server"] == {}
    with pytest.raises(ShapeError, match="MULETEER_ADMIN_TOKEN"):
        read_declared({"server": {"admin_token": "correct-horse-battery"}}, base_dir="/")
