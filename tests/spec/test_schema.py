"""The JSON Schema for editors is current, and says the same as the reader wherever a schema can."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from muleteer.base.errors import SpecError
from muleteer.spec.file import parse_text
from muleteer.spec.schema import schema
from tests.spec.test_file import BAD, BAD_ENDPOINT, one_backend

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "schema" / "muleteer.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD = [
    "{}",
    'backends: {"lr:v1": {model: "m.py:M", timeout: 100ms, max_body: 64MiB, expected: null, replicas: 3}}',
    one_backend(", timeout: 1.5, max_rss: off") + "endpoints:\n  e: {route: /x, backend: b, methods: GET, timeout: 2s}",
    one_backend() + "endpoints:\n  e: {route: /, traffic: {b: 0.5}, affinity: {json: user}, override: {cookie: v}}",
    one_backend() + "endpoints:\n  e: {route: /x/y, backend: b, shadow: {backend: b, percent: 1, tolerance: 1e-3}}",
    "server: {port: 0, debug: true, grace: 1min}",
    one_backend(", replicas: {min: 0, max: 8}, slo: {p99: 100ms}, batch: off, batch_max: 32, batch_wait: 2ms"),
    one_backend(", replicas: null, slo: none, cpus: 0.5, memory: 2GiB, gpus: 0.25, share: none, weight: 2, idle: 5min"),
    one_backend(
        ", replicas: auto, share: preload, slo: {p99: 1}, cpus: auto, memory: null, batch_max: auto, idle: auto"
    ),
    one_backend(", replicas: {min: 0}"),
    one_backend(", replicas: {max: 8}"),
    "server: {engine: ray, ray_address: auto, gateways: every_node}",
    "server: {gateways: 2, gpu_devices: '0,1', cpu_budget: 3.5, memory_budget: 8GiB}",
    "server: {gpu_devices: 0, cpu_budget: auto}",
]
# Only the reader can know these: they need the other parts of the file, arithmetic, or a rule that no schema can say.
BEYOND = [
    "max_body: 1.5B",
    "replicas: {min: 3, max: 2}",
    "replicas: {max: 0}",
    "cpus: .nan",
    "gpus: 1.5",
    "{route: /x, backend: c}",
    "{route: /x, traffic: {b: 0}}",
    "{route: /livez, backend: b}",
    "{route: /a/../b, backend: b}",
    "{route: /x, backend: b, timeout: 2h}",
]


def valid(text):
    return VALIDATOR.is_valid(YAML(typ="safe", pure=True).load(text))


def test_the_file_in_the_repository_is_current():
    assert schema() == SCHEMA, "run: python -m muleteer.spec.schema > schema/muleteer.schema.json"


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", GOOD)
def test_good_examples(text):
    parse_text(text, source="f", base_dir=Path("/"), check_files=False)
    VALIDATOR.validate(YAML(typ="safe", pure=True).load(text))


BAD_TEXTS = {key: one_backend(", " + key) for key in BAD} | {
    key: one_backend() + f"endpoints:\n  e: {key}\n" for key in BAD_ENDPOINT
}


@pytest.mark.parametrize("key", BAD_TEXTS)
def test_bad_examples(key):
    with pytest.raises(SpecError):
        parse_text(BAD_TEXTS[key], source="f", base_dir=Path("/"), check_files=False)
    assert valid(BAD_TEXTS[key]) is (key in BEYOND)
