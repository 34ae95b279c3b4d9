"""Pure pieces of what is printed: curl lines, tables, harmless text, the end of a process, the settings page."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muleteer.cli.curl import curl_line, sample_body
from muleteer.cli.exits import cannot_serve, exit_details, exit_text
from muleteer.cli.output import harmless, table
from muleteer.cli.reference import settings_markdown
from muleteer.supervise.process import LastExit
from tests.tidy.tree import DOCS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),  # short of EXAMPLE_CHARS_MAX, escaped too
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_a_curl_line_carries_the_example_whatever_is_in_it(example):
    line = curl_line("http://127.0.0.1:8000/predict", {"example": example})
    assert line.isprintable()
    words = shlex.split(line)
    assert words[:4] == ["curl", "-H", "content-type: application/json", "-d"]
    assert words[5:] == ["http://127.0.0.1:8000/predict"]
    assert json.loads(words[4]) == example


@pytest.mark.parametrize(
    ("parameters", "body"),
    [
        (["text: str", "top_k: int = 5"], {"text": "hello"}),
        (["text"], {"text": "hello"}),
        (["a: int", "b: float", "c: bool"], {"a": 1, "b": 1.0, "c": True}),
        (["rows: list[list[float]]", "options: dict[str, int]"], {"rows": [], "options": {}}),
        (["*args", "**kwargs"], {}),
        (["direction: Literal['en-pt', 'pt-en'] = 'en-pt'"], {}),
        ([], {}),
        (None, {}),
    ],
)
def test_without_an_example_the_body_is_made_from_the_parameters(parameters, body):
    assert json.loads(sample_body({"parameters": parameters})) == body


def test_an_example_that_would_fill_the_screen_is_not_shown():
    assert json.loads(sample_body({"example": {"x": "y" * 2000}, "parameters": ["x: str"]})) == {"x": "hello"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext é", "plain\ttext é"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202eabc\u2028", "\\u202eabc\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_text_of_strangers_is_harmless(text, shown):
    assert harmless(text) == shown


@given(st.text())
def test_harmless_text_is_one_line(text):
    assert len(harmless(text).splitlines()) <= 1


def test_table():
    assert table(("A", "LONG"), [("aaa", "b"), ("c", "")]) == "A    LONG\naaa  b\nc"
    assert table(("A",), []) == "A"


@pytest.mark.parametrize(
    ("last_exit", "text"),
    [
        (
            LastExit(reason="import_error", code=1, message="cannot import x\nTraceback"),
            "import_error: cannot import x",
        ),
        (LastExit(reason="killed", signal="SIGKILL"), "killed by SIGKILL"),
        (LastExit(reason="exited", code=3), "exited with status 3"),
        (LastExit(reason="ready_timeout"), "ready_timeout"),
    ],
)
def test_the_end_of_a_process_reads_as_one_line(last_exit, text):
    assert exit_text(last_exit) == text


def test_details_are_the_users_frames_or_else_the_end_of_the_log():
    assert exit_details(LastExit(reason="r", message="first\n  frame\nValueError", log_tail="log")) == [
        "  frame",
        "ValueError",
    ]
    assert exit_details(LastExit(reason="r", message="only", log_tail="log")) == []
    assert exit_details(LastExit(reason="r", log_tail="a\n\nb\n")) == ["a", "b"]
    assert len(exit_details(LastExit(reason="r", log_tail="x\n" * 100))) == 15


def test_the_error_of_a_model_that_cannot_be_served_forges_no_line():
    error = cannot_serve(
        "m.py:M", LastExit(reason="constructor_raised", message="M() raised \x1b[2J\nTraceback\n  \x07x")
    )
    assert str(error) == "cannot serve m.py:M: constructor_raised: M() raised \\x1b[2J\n  Traceback\n    \\x07x"


def test_the_settings_page_is_current():
    assert (DOCS / "settings.md").read_text() == settings_markdown(), "run make docs"
