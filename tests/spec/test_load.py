"""Where settings come from, and what is refused."""

import pytest

from muleteer.spec.load import read_value, resolve, show_value
from muleteer.spec.settings import SETTINGS


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
    special = {"run_dir": "/tmp/m", "host": "::1", "slo": "p99=1s"}
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
    ("name", "text"),
    [
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
