"""Where settings come from, and what is refused."""

import msgspec
import pytest

from muleteer.spec.load import read_value, resolve, show_value
from muleteer.spec.settings import SETTINGS, BackendSettings, Replicas, Slo


def problems_of(flags=None, environ=None):
    return [str(problem) for problem in resolve(flags or {}, environ or {})[1]]


def test_a_flag_wins_over_the_environment_which_wins_over_the_default():
    settings, problems = resolve({"port": "9000"}, {"MULETEER_PORT": "9001", "MULETEER_HOST": "0.0.0.0"})
    assert problems == []
    found = {name: (each.value, each.origin) for name, each in settings.values.items()}
    assert found["port"] == (9000, "--port")
    assert found["host"] == ("0.0.0.0", "MULETEER_HOST")
    assert found["replicas"] == (None, "default")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_all_three_origins(name, tmp_path):
    setting = SETTINGS[name]
    special = {"run_dir": "/tmp/m", "host": "::1", "slo": "p99=1s", "ray": "{}"}
    text = special.get(name) or next(iter(setting.choices), "yes" if setting.type is bool else "1")
    assert resolve({name: text}, {})[0].values[name].origin == setting.flag
    assert resolve({}, {setting.env: text})[0].values[name].origin == setting.env
    assert resolve({}, {})[0].values[name].origin == "default"


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("run_dir", "state_dir")])
def test_every_default_can_be_written_as_text(name):
    setting = SETTINGS[name]
    assert read_value(setting, show_value(setting, setting.default)) == setting.default


def test_every_problem_is_reported_at_once_and_names_its_origin():
    assert problems_of(
        {"port": "90000", "timeout": "3x"}, {"MULETEER_REPLICAS": "-1", "MULETEER_RELOAD": "perhaps"}
    ) == [
        "MULETEER_REPLICAS: -1 is not allowed: at least 0 and at most 1024",
        "--timeout: '3x' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
        "--port: 90000 is not allowed: at least 0 and at most 65535",
        "MULETEER_RELOAD: 'perhaps' is neither true nor false",
    ]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("replicas", "2", 2),
        ("replicas", "0:8", Replicas(0, 8)),
        ("replicas", "auto", None),
        ("slo", "p99=100ms", Slo(0.1)),
        ("slo", " p99 = 2 ", Slo(2.0)),
        ("slo", "none", None),
        ("slo", "off", None),
        ("batch", "off", "off"),
        ("batch", "list", "list"),
        ("batch_max", "auto", None),
        ("cpus", "0.5", 0.5),
        ("memory", "2GiB", 2**31),
        ("gpus", "0.25", 0.25),
        ("gpus", "2", 2.0),
        ("share", "none", "none"),
        ("idle", "5min", 300.0),
        ("gateways", "3", 3),
        ("gateways", "every_node", "every_node"),
        ("gpu_devices", "0, 1", "0,1"),
        ("gpu_devices", "GPU-1f0e,MIG-ab/1/0", "GPU-1f0e,MIG-ab/1/0"),
    ],
)
def test_text_forms(name, text, value):
    found = read_value(SETTINGS[name], text)
    assert (found, type(found)) == (value, type(value))
    assert read_value(SETTINGS[name], show_value(SETTINGS[name], found)) == found


def test_how_many_replicas_there_may_be():
    assert BackendSettings().bounds == Replicas(1, 1)
    assert BackendSettings(replicas=0).bounds == Replicas(0, 0)
    assert BackendSettings(replicas=3, slo=Slo(0.1)).bounds == Replicas(3, 3)
    assert BackendSettings(slo=Slo(0.1)).bounds == Replicas(1, 1024)
    assert BackendSettings(replicas=Replicas(0, 8)).bounds == Replicas(0, 8)
    elastic = [BackendSettings(replicas=replicas).elastic for replicas in (None, 2, Replicas(2, 2), Replicas(0, 1))]
    assert elastic == [False, False, False, True]


def test_revisions_of_all_ages_can_be_read():
    """What an earlier version stored: a plain number of replicas, and none of the settings that it did not know."""
    settings = '{"replicas":2,"concurrency":1,"timeout":30.0,"idempotent":true,"max_body":1,"load_timeout":300.0}'
    assert msgspec.json.decode(settings, type=BackendSettings).bounds == Replicas(2, 2)
    new = BackendSettings(replicas=Replicas(0, 8), slo=Slo(0.1))
    assert msgspec.json.decode(msgspec.json.encode(new), type=BackendSettings) == new
    with pytest.raises(msgspec.ValidationError, match="min 3 is more than max 2"):
        msgspec.json.decode('{"replicas":{"min":3,"max":2}}', type=BackendSettings)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("replicas", "off"),
        ("replicas", "1:"),
        ("replicas", ":8"),
        ("replicas", "2:1"),
        ("replicas", "0:1025"),
        ("replicas", "1:2:3"),
        ("slo", "100ms"),
        ("slo", "p95=1s"),
        ("slo", "p99=0s"),
        ("slo", "p99=2h"),
        ("batch", "lists"),
        ("batch", ""),
        ("batch_max", "0"),
        ("batch_max", "off"),
        ("cpus", "nan"),
        ("cpus", "1e999"),
        ("cpus", "0"),
        ("gpus", "1.5"),
        ("gpus", "-1"),
        ("memory", "0"),
        ("weight", "0"),
        ("gateways", "0"),
        ("gateways", "every-node"),
        ("gpu_devices", "0,0"),
        ("gpu_devices", "0,"),
        ("gpu_devices", "all"),
        ("timeout", "0"),
        ("timeout", "3601"),
        ("expected", "0s"),
        ("max_rss", "0"),
        ("max_body", "0"),
        ("concurrency", "1.5"),
        ("concurrency", "-1"),
        ("replicas", "9" * 30),
        ("replicas", "\u0663"),
        ("host", ""),
        ("port", ""),
    ],
)
def test_values_out_of_bounds_or_of_another_kind_are_refused(name, text):
    with pytest.raises(ValueError, match=r".+"):
        read_value(SETTINGS[name], text)


def test_a_setting_that_is_off_can_be_switched_off_again():
    assert resolve({"max_rss": "off"}, {"MULETEER_MAX_RSS": "1GiB"})[0]["max_rss"] is None


def test_a_variable_that_looks_like_a_mistyped_setting_is_refused():
    assert problems_of(environ={"MULETEER_REPLICA": "2"}) == [
        "MULETEER_REPLICA in the environment is not a setting; did you mean REPLICAS?"
    ]


def test_variables_of_kubernetes_and_of_others_are_passed_over():
    environ = {
        "MULETEER_PORT": "tcp://10.0.0.1:80",
        "MULETEER_SERVICE_HOST": "10.0.0.1",
        "MULETEER_SERVICE_PORT": "80",
        "MULETEER_PORT_80_TCP_ADDR": "10.0.0.1",
        "MULETEER_FDS": "{}",
    }
    settings, problems = resolve({}, environ)
    assert problems == []
    assert settings["port"] == 8000


def test_the_run_directory_is_private_to_the_user(tmp_path):
    assert resolve({}, {"XDG_RUNTIME_DIR": str(tmp_path)})[0]["run_dir"] == f"{tmp_path}/muleteer"
    assert resolve({}, {"XDG_RUNTIME_DIR": f"{tmp_path}/gone"})[0]["run_dir"].startswith("/tmp/muleteer-")


def test_a_run_directory_whose_sockets_could_not_be_bound_is_refused():
    (problem,) = problems_of({"run_dir": "/tmp/" + "x" * 100})
    assert problem.endswith("bytes too long for the sockets in it; choose --run-dir")
    assert problems_of({"run_dir": "/tmp/" + "x" * 80}) == []


def test_a_run_directory_whose_name_is_no_text_is_refused():
    _, problems = resolve({"run_dir": "/tmp/b\udcff"}, {})
    assert [str(problem) for problem in problems] == ["run directory /tmp/b\udcff is not UTF-8; choose --run-dir"]
