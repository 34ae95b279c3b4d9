"""URLs that work when pasted, whatever host was declared."""

import pytest

from muleteer.spec.address import url_of


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("localhost", "http://localhost:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("[fe80::2]", "http://[fe80::2]:80"),
    ],
)
def test_where_this_machine_reaches_it(host, url):
    assert url_of(host, 80) == url
