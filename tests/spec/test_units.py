"""Times and sizes: what may be written, what may not, and that what is shown can be read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muleteer.spec.units import format_bytes, format_rough, format_seconds, parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100ms", 0.1),
        ("250us", 0.00025),
        ("2s", 2),
        ("2", 2),
        ("0.5", 0.5),
        (" 2 s ", 2),
        ("5min", 300),
        ("5m", 300),
        ("1h", 3600),
        ("0s", 0),
    ],
)
def test_times(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "+1", "1 fortnight", "1e3", "nan", "inf", "1MS", "1.s", "\u0661s", "9" * 400]
)
def test_not_times(text):
    with pytest.raises(ValueError, match="time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 2**20),
        ("64mib", 64 * 2**20),
        ("1.5KiB", 1536),
        ("500KB", 500_000),
        ("2GB", 2 * 10**9),
        ("2GiB", 2 * 2**30),
        ("300", 300),
        ("300B", 300),
        ("0", 0),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "64 apples", "-1", "0.3B", "64M", "1e6", "0x10", "inf"])
def test_not_sizes(text):
    with pytest.raises(ValueError, match=r"size|whole number of bytes"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (30, "30s"), (0.1, "100ms"), (0.00025, "250us"), (300, "300s"), (1.5, "1.5s")]
)
def test_times_shown(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(64 * 2**20, "64MiB"), (300, "300B"), (1536, "1.5KiB"), (3 * 2**40, "3072GiB"), (0, "0B")]
)
def test_sizes_shown(size, text):
    assert format_bytes(size) == text


@given(st.integers(min_value=0, max_value=2**40))
def test_a_shown_size_is_close_to_what_it_stands_for(size):
    shown = format_bytes(size)
    number, unit = shown.rstrip("BKMGi"), shown.lstrip("0123456789.")
    read = float(number) * {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert read == pytest.approx(size, rel=0.06)


@given(st.floats(min_value=1e-6, max_value=86400))
def test_a_shown_time_reads_back_to_three_digits(seconds):
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=0.006)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (4.3e-5, "0"),
        (0.012, "0.01"),
        (0.5, "0.5"),
        (1.25, "1.2"),
        (9.96, "10"),
        (45.4, "45"),
        (100.0, "100"),
    ],
)
def test_rough_numbers_have_two_digits_and_no_exponent(value, text):
    assert format_rough(value) == text
