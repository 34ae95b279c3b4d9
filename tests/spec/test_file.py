"""muleteer.yaml: what it declares, and that every mistake in it is named at once, by line and key."""

import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muleteer.base.errors import SpecError
from muleteer.spec.checks import join
from muleteer.spec.dump import dump
from muleteer.spec.file import METHODS, load_file, parse_text
from muleteer.spec.fit import misfits
from muleteer.spec.settings import (
    SETTINGS,
    BackendSettings,
    BackendSpec,
    Declared,
    EndpointSpec,
    Replicas,
    ServerSettings,
    Slo,
)
from muleteer.spec.traffic import Affinity, Override, Shadow

MODEL = "class Model:\n    def predict(self, x): ...\n"


def parse(text, base_dir="/srv", *, check_files=False):
    return parse_text(text, source="f.yaml", base_dir=Path(base_dir), check_files=check_files)


def problems(text, **more):
    with pytest.raises(SpecError) as caught:
        parse(text, **more)
    return str(caught.value).split("\n")


def one_backend(rest="", model="m.py:M"):
    return f"backends:\n  b: {{model: '{model}'{rest}}}\n"


def test_the_shape_of_the_design():
    declared = parse("""
backends:
  "lr:v1": {model: "fancy_model.py:FancyModel", timeout: 100ms, max_body: 1MiB, idempotent: false, concurrency: 2}
  "lr:v2": {model: "pkg.module:FancyModel", replicas: 8, base_dir: sub, max_rss: null}
endpoints:
  fancy_predictor:
    route: /predict
    methods: [GET, POST]
    traffic: {"lr:v1": 90, "lr:v2": 10.5}
    affinity: {header: X-Session-Id, replica: true}
    shadow: {backend: "lr:v2", percent: 5}
    override: {header: Muleteer-Backend, cookie: version}
    timeout: 2
  plain: {route: /plain, backend: "lr:v1"}
server: {port: 0, grace: 1min, debug: true, run_dir: run}
""")
    assert declared.backends == (
        BackendSpec(
            name="lr:v1",
            target="fancy_model.py:FancyModel",
            base_dir="/srv",
            settings=BackendSettings(timeout=0.1, max_body=2**20, idempotent=False, concurrency=2),
        ),
        BackendSpec(
            name="lr:v2", target="pkg.module:FancyModel", base_dir="/srv/sub", settings=BackendSettings(replicas=8)
        ),
    )
    assert declared.endpoints == (
        EndpointSpec(
            name="fancy_predictor",
            route="/predict",
            methods=("GET", "POST"),
            traffic={"lr:v1": 90.0, "lr:v2": 10.5},
            affinity=Affinity(source="header", name="x-session-id", replica=True),
            shadow=Shadow(backend="lr:v2", percent=5.0),
            override=Override(header="muleteer-backend", cookie="version"),
            timeout=2.0,
        ),
        EndpointSpec(name="plain", route="/plain", traffic={"lr:v1": 1.0}),
    )
    assert declared.server == ServerSettings(port=0, grace=60.0, debug=True, run_dir="/srv/run")


def test_nothing_declares_nothing():
    assert parse("") == parse("{}") == parse("# only a comment\n") == Declared()


def test_a_file_checks_its_models_and_starts_from_its_folder(tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "muleteer.yaml").write_text(one_backend(model="m.py:Model"))
    assert load_file(tmp_path / "muleteer.yaml").backends[0].base_dir == str(tmp_path.resolve())
    (tmp_path / "muleteer.yaml").write_text(one_backend(model="m.py:Modle"))
    with pytest.raises(SpecError, match=r"muleteer.yaml:2: backends.b.model: .*did you mean Model"):
        load_file(tmp_path / "muleteer.yaml")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        load_file(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="directory"):
        load_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(SpecError, match="not UTF-8 at byte 3"):
        load_file(tmp_path / "latin.yaml")


def test_every_mistake_at_once_in_the_order_of_the_text():
    found = problems("""\
backends:
  "lr:v1": {model: "m.py:M", replcas: 3, timeout: soon}
  v2: {}
endpoints:
  a: {route: predict, traffic: {"lrv1": 10}}
srver: {}
""")
    assert found == [
        'f.yaml:2: backends."lr:v1".replcas: unknown key; did you mean replicas?',
        "f.yaml:2: backends.\"lr:v1\".timeout: 'soon' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
        "f.yaml:3: backends.v2: needs a `model`: file.py:Name or package.module:Name",
        "f.yaml:5: endpoints.a.route: 'predict' must start with a slash: /predict",
        "f.yaml:5: endpoints.a.traffic: there is no backend 'lrv1'; did you mean lr:v1?",
        "f.yaml:6: srver: unknown key; did you mean server?",
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("{min: 0}", Replicas(0, 1024)), ("{min: 3}", Replicas(3, 1024)), ("{max: 8}", Replicas(1, 8))],
)
def test_of_a_range_one_end_is_enough(written, meant):
    text = f"backends:\n  b:\n    model: m.py:M\n    replicas: {written}\n"
    declared = parse_text(text, source="f.yaml", base_dir=Path("/"), check_files=False)
    assert declared.backends[0].settings.replicas == meant


BAD = {
    "replicas: -1": "backends.b.replicas: -1 is not allowed: at least 0 and at most 1024",
    "replicas: 1.5": "backends.b.replicas: expected a whole number or {min: 1, max: 8}, not '1.5'",
    "replicas: '3'": "backends.b.replicas: expected a whole number or {min: 1, max: 8}, not '3'",
    "replicas: true": "backends.b.replicas: expected a whole number or {min: 1, max: 8}, not 'true'",
    "replicas: [1]": "backends.b.replicas: expected a whole number or {min: 1, max: 8}, not a list",
    "replicas: 2:1": "backends.b.replicas: expected a whole number or {min: 1, max: 8}, not '2:1'",
    "replicas: off": "backends.b.replicas: expected a whole number or {min: 1, max: 8}, not 'off'",
    "replicas: {min: 3, max: 2}": "backends.b.replicas: min 3 is more than max 2",
    "replicas: {max: 0}": "backends.b.replicas: min 1 is more than max 0",
    "replicas: {}": "backends.b.replicas: needs `min` or `max`",
    "replicas: {min: 1, mx: 2}": "backends.b.replicas.mx: unknown key; did you mean max?",
    "replicas: {min: 1, max: 2000}": "backends.b.replicas.max: expected a whole number from 0 to 1024, not '2000'",
    "replicas: {min: true, max: 2}": "backends.b.replicas.min: expected a whole number from 0 to 1024, not 'true'",
    "slo: 100ms": "backends.b.slo: expected {p99: TIME}, such as {p99: 100ms}, not '100ms'",
    "slo: p99=100ms": "backends.b.slo: expected {p99: TIME}, such as {p99: 100ms}, not 'p99=100ms'",
    "slo: {p95: 1s}": "backends.b.slo.p95: unknown key; did you mean p99?",
    "slo: {}": "backends.b.slo: needs `p99`",
    "slo: {p99: [1]}": "backends.b.slo.p99: expected a time such as 500ms or 10s, not a list",
    "slo: {p99: soon}": "backends.b.slo.p99: 'soon' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
    "slo: {p99: 0}": "backends.b.slo.p99: 0 is not allowed: more than 0 and at most 3600",
    "batch: lists": "backends.b.batch: 'lists' is not one of auto, off, list, stack; did you mean list?",
    "batch: true": "backends.b.batch: expected one of auto, off, list, stack, not 'true'",
    "batch: null": "backends.b.batch: expected one of auto, off, list, stack, not nothing",
    "batch_max: 0": "backends.b.batch_max: 0 is not allowed: at least 1 and at most 512",
    "batch_wait: -1": "backends.b.batch_wait: '-1' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
    "cpus: 0": "backends.b.cpus: 0 is not allowed: more than 0 and at most 4096",
    "cpus: two": "backends.b.cpus: expected a number, not 'two'",
    "cpus: .nan": "backends.b.cpus: '.nan' is not a number",
    "memory: 0": "backends.b.memory: 0 is not allowed: at least 1",
    "gpus: 1.5": "backends.b.gpus: 1.5 is not allowed: a whole number, or a part of one below 1",
    "gpus: -1": "backends.b.gpus: -1 is not allowed: at least 0 and at most 1024",
    "share: fork": "backends.b.share: 'fork' is not one of none, preload",
    "weight: 0": "backends.b.weight: 0 is not allowed: more than 0 and at most 1000",
    "idle: off": "backends.b.idle: 'off' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
    "idempotent: yes": "backends.b.idempotent: expected true or false, not 'yes'",
    "timeout: 0": "backends.b.timeout: 0 is not allowed: more than 0 and at most 3600",
    "timeout: .inf": "backends.b.timeout: '.inf' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
    "max_body: 1.5B": "backends.b.max_body: '1.5B' is not a whole number of bytes",
    "base_dir: 3": "backends.b.base_dir: expected text, not '3'",
    "model2: x": "backends.b.model2: unknown key; did you mean model?",
}


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("gateways: '2'", "gateways: expected a whole number or every_node, not '2'"),
        ("gateways: every-node", "gateways: expected a whole number or every_node, not 'every-node'"),
        ("gateways: 65", "gateways: 65 is not allowed: at least 1 and at most 64"),
        ("engine: roy", "engine: 'roy' is not one of local, ray; did you mean ray?"),
        ("gpu_devices: [0, 1]", "gpu_devices: expected numbers of GPUs such as 0,1, not a list"),
        ("gpu_devices: 0;1", "gpu_devices: '0;1' does not name GPUs: write their numbers, such as 0,1"),
        ("cpu_budget: 0", "cpu_budget: 0 is not allowed: more than 0 and at most 65536"),
        (
            "memory_budget: lots",
            "memory_budget: 'lots' is not a size: write 64MiB, 500KB or 2GiB (a bare number is bytes)",
        ),
    ],
)
def test_wrong_settings_of_the_server(rest, message):
    assert problems(f"server: {{{rest}}}\n") == [f"f.yaml:1: server.{message}"]


@pytest.mark.parametrize(("rest", "message"), BAD.items())
def test_wrong_settings_of_a_backend(rest, message):
    assert problems(one_backend(", " + rest)) == [f"f.yaml:2: {message}"]


BAD_ENDPOINT = {
    "{}": ["needs a `route`", "needs either `backend: NAME` or `traffic: {NAME: weight, …}`"],
    "{route: /x, backend: b, traffic: {b: 1}}": ["needs either `backend: NAME` or `traffic: {NAME: weight, …}`"],
    "{route: /x, backend: c}": [".backend: there is no backend 'c'"],
    "{route: /x, traffic: {b: 0}}": [".traffic: the weights must have a sum above 0"],
    "{route: /x, traffic: {}}": [".traffic: the weights must have a sum above 0"],
    "{route: /x, traffic: {b: .inf}}": [
        ".traffic: the weights must have a sum above 0",
        ".traffic.b: expected a number from 0 to 1e+09, not '.inf'",
    ],
    "{route: /livez, backend: b}": [".route: /livez is taken: the gateway answers it itself"],
    "{route: /a/../b, backend: b}": [
        ".route: '/a/../b' is not a path: letters, digits and -._~ between single slashes, none at the end"
    ],
    "{route: /x, backend: b, methods: post}": [
        ".methods: 'post' is not one of GET, POST, PUT, PATCH, DELETE; did you mean POST?"
    ],
    "{route: /x, backend: b, methods: [GET, GET]}": [".methods: expected at least one method, each once"],
    "{route: /x, backend: b, methods: []}": [".methods: expected at least one method, each once"],
    "{route: /x, backend: b, timeout: 2h}": [".timeout: 2h is not allowed: more than 0 and at most 3600 s"],
    "{route: /x, backend: b, affinity: {header: a, json: b}}": [
        ".affinity: needs exactly one of `header`, `cookie` and `json`, the name of the key"
    ],
    "{route: /x, backend: b, affinity: {header: 'a b'}}": [
        ".affinity.header: 'a b' is not a name: letters, digits and !#$%&'*+-.^_`|~ only, at most 128 characters"
    ],
    "{route: /x, backend: b, shadow: {backend: b, percent: 0}}": [
        ".shadow.percent: 0 is not allowed: leave `shadow` out"
    ],
    "{route: /x, backend: b, shadow: {percent: 101}}": [".shadow: needs `backend`"],
    "{route: /x, backend: b, override: {}}": [
        ".override: needs a `header`, a `cookie`, or both: the name that may choose a backend"
    ],
    "[]": [": expected a mapping, not a list"],
}


@pytest.mark.parametrize(("endpoint", "messages"), BAD_ENDPOINT.items())
def test_wrong_endpoints(endpoint, messages):
    expected = ["f.yaml:4: endpoints.e" + (m if m[0] in ".:" else f": {m}") for m in messages]
    assert problems(one_backend() + f"endpoints:\n  e: {endpoint}\n") == expected


def test_two_endpoints_with_one_route():
    text = one_backend() + "endpoints:\n  e: {route: /x, backend: b}\n  f: {route: /x, backend: b}\n"
    assert problems(text) == ["f.yaml:5: endpoints.f: its route /x is that of e"]


def test_yaml_is_1_2_and_safe():
    assert parse(one_backend(model="no:no")).backends[0].target == "no:no"
    assert problems(one_backend(", timeout: 12:30"))[0].startswith(
        "f.yaml:2: backends.b.timeout: '12:30' is not a time"
    )
    assert problems("backends: !!python/object:os.system {}") == [
        "f.yaml:1: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed: write plain values"
    ]


def test_duplicate_keys_are_refused_wherever_they_stand():
    assert problems("backends: {}\nbackends: {}\n") == [
        "f.yaml:2: the key 'backends' stands here twice, first in line 1"
    ]
    assert problems(one_backend(",\n   model: 'n.py:N'"))[0].startswith("f.yaml:3: the key 'model' stands here twice")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "f.yaml:1: "),
        ("a: b: c", "f.yaml:1: mapping values are not allowed here"),
        ("{}\n---\n{}", "f.yaml:2: a second document: one file declares one server"),
        ("a: *b", "f.yaml:1: "),
        ("a: &a [*a]", "f.yaml:1: alias *a contains itself"),
        ("? [1]\n: 2", "f.yaml:1: a list or mapping cannot be a key"),
        ("a: \x00", "f.yaml:1: "),
        ("[" * 5000, "f.yaml:1: nested deeper than 20 levels"),
        ("- " * 5000, "f.yaml:1: nested deeper than 20 levels"),
        ("[]", "f.yaml:1: expected a mapping, not a list"),
        ("word", "f.yaml:1: expected a mapping, not 'word'"),
    ],
)
def test_what_is_not_a_document(text, message):
    assert problems(text)[0].startswith(message)


def test_an_alias_shares_and_a_bomb_is_refused_quickly():
    shared = "backends:\n  a: &a {model: 'm.py:M', replicas: 3}\n  b: *a\n"
    assert [backend.settings.replicas for backend in parse(shared).backends] == [3, 3]
    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 30)]
    started = time.process_time()
    assert len(problems("\n".join(lines))) == 30
    assert time.process_time() - started < 5
    assert problems("\n".join(["a: &a 1", *(f"b{i}: *a" for i in range(1001))])) == [
        "f.yaml:1002: more than 1000 aliases"
    ]


def test_many_mistakes_are_cut_short():
    found = problems("\n".join(f"key{i}: 1" for i in range(200)))
    assert len(found) == 51
    assert found[-1] == "f.yaml: and 150 more"


def test_a_thousand_backends_read_in_seconds(tmp_path):
    (tmp_path / "m.py").write_text(MODEL)
    text = "backends:\n" + "".join(f'  "b{i}": {{model: "m.py:Model", timeout: 10s}}\n' for i in range(1000))
    started = time.process_time()
    assert len(parse(text, str(tmp_path), check_files=True).backends) == 1000
    assert time.process_time() - started < 5  # 0.3 s on a quiet machine


# dump

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,8}", fullmatch=True)
TOKENS = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,6}", fullmatch=True)


def setting_values(setting):
    low, high = setting.bounds.get("ge", setting.bounds.get("gt", 0)), setting.bounds.get("le", 10**9)
    if setting.kind == "slo":
        values = st.builds(Slo, st.floats(1e-6, 3600))
    elif setting.kind == "ray":
        values = st.sampled_from(["{}", '{"placement":"pack"}', '{"resources":{"disk":0.5},"node":"10.0.0.1"}'])
    elif setting.kind == "devices":
        values = st.lists(st.integers(0, 15), min_size=1, unique=True).map(lambda ids: ",".join(map(str, ids)))
    elif setting.type is bool:
        values = st.booleans()
    elif setting.choices:
        values = st.sampled_from(setting.choices)
    elif setting.type is str:
        values = st.text(st.characters(codec="utf-8"), min_size=1)
    elif setting.type is int:
        values = st.integers(low, high)
    else:
        values = st.floats(low, high, exclude_min="gt" in setting.bounds, allow_subnormal=False)
    if setting.kind == "replicas":
        values |= st.tuples(values, values).map(lambda two: Replicas(min(two), max(two)))
    if setting.kind == "parts":
        values = st.floats(0, 1) | st.integers(1, 64).map(float)
    return st.none() | values if setting.optional else values


def settings_of(struct, scope, left_out=()):
    named = {s.name: setting_values(s) for s in SETTINGS.values() if s.scope == scope and s.name not in left_out}
    return st.fixed_dictionaries({}, optional=named).map(lambda values: struct(**values))


@st.composite
def declarations(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    backends = tuple(
        BackendSpec(
            name=name,
            target=draw(st.sampled_from(["m.py:M", "pkg.mod:Class", "a b/ü.py:M"])),
            base_dir=draw(st.sampled_from(["/srv", "/elsewhere/x y"])),
            settings=draw(settings_of(BackendSettings, "backend")),
        )
        for name in names
    )
    weights = st.floats(0, 1e6) | st.integers(0, 100).map(float)
    affinity = st.builds(Affinity, source=st.just("header"), name=TOKENS, replica=st.booleans()) | st.builds(
        Affinity, source=st.just("json"), name=st.text(min_size=1, max_size=9), replica=st.booleans()
    )
    endpoints = tuple(
        EndpointSpec(
            name=name,
            route=f"/r{i}",
            methods=tuple(draw(st.lists(st.sampled_from(METHODS), min_size=1, unique=True))),
            traffic={names[0]: draw(weights) + 1, **dict.fromkeys(names[1:], draw(weights))},
            timeout=draw(st.none() | st.floats(1e-6, 3600)),
            affinity=draw(st.none() | affinity),
            shadow=draw(
                st.none()
                | st.builds(Shadow, backend=st.just(names[-1]), percent=st.floats(0.1, 100), tolerance=st.floats(0, 1))
            ),
            override=draw(st.none() | st.builds(Override, header=TOKENS, cookie=st.none() | TOKENS)),
        )
        for i, name in enumerate(draw(st.lists(NAMES, max_size=3, unique=True)))
    )
    server = draw(settings_of(ServerSettings, "server", left_out=("run_dir", "state_dir", "admin_token")))
    return fitting(Declared(server=server, backends=backends, endpoints=endpoints))


def fitting(declared):
    """Without the settings that do not go with the others."""
    for misfit in misfits(declared):
        *_, setting = misfit.path.split(".")
        default = {setting: SETTINGS[setting].default}
        if misfit.path.startswith("server"):
            return fitting(
                msgspec.structs.replace(declared, server=msgspec.structs.replace(declared.server, **default))
            )
        backends = [
            msgspec.structs.replace(backend, settings=msgspec.structs.replace(backend.settings, **default))
            if misfit.path.startswith(join("backends", backend.name) + ".")
            else backend
            for backend in declared.backends
        ]
        return fitting(msgspec.structs.replace(declared, backends=tuple(backends)))
    return declared


@settings(max_examples=60)
@given(declarations())
def test_what_is_dumped_reads_back_the_same(declared):
    assert parse(dump(declared, base_dir="/srv")) == declared


def test_a_dump_is_meant_to_be_read():
    text = """\
backends:
  "lr:v1":
    model: "m.py:M"
    timeout: 500ms
    max_body: 1MiB
endpoints:
  fancy:
    route: /predict
    traffic: {"lr:v1": 90, "no": 2.5}
    affinity: {cookie: session}
server:
  port: 9000
"""
    declared = parse(text.replace("endpoints:", '  "no": {model: "m.py:M"}\nendpoints:'))
    assert dump(declared, base_dir="/srv") == text.replace("endpoints:", '  "no":\n    model: "m.py:M"\nendpoints:')
