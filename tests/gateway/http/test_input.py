"""behaviour.md, section 4: bytes in, status out. Each line is sent whole, byte by byte, and cut in two at several points;
after each refusal a good request on a new connection succeeds.
"""

import gzip
import zlib

import msgspec
import pytest

from tests.gateway.http.rig import BODY_MAX, chunked, get, post

KEPT, CLOSED = "kept", "closed"
HUGE = b"a" * 20_000
CHUNKED_HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def head(*lines):
    return b"\r\n".join(line if isinstance(line, bytes) else line.encode("latin-1") for line in (*lines, "", ""))


def many_fields(count):
    return get("/echo", *(f"X-{number}: y" for number in range(count - 1)))


def packed(body, path="/echo", coding="gzip"):
    return post(path, body, f"Content-Encoding: {coding}")


CASES = {
    # request line
    "good get": (get(), 200, KEPT),
    "good post": (post(), 200, KEPT),
    "unknown route": (get("/nowhere"), 404, KEPT),
    "wrong method": (post("/only-get"), 405, KEPT),
    "unknown method": (get(method="BREW"), 501, CLOSED),
    "lower-case method": (get(method="get"), 501, CLOSED),
    "connect": (head("CONNECT a:80 HTTP/1.1", "Host: a"), 501, CLOSED),
    "method is no token": (get(method="G@T"), 400, CLOSED),
    "url of 8 KiB": (get("/echo?" + "a" * (8192 - 6)), 200, KEPT),
    "url over 8 KiB": (get("/echo?" + "a" * (8193 - 6)), 414, CLOSED),
    "url over 8 KiB in time": (get("/echo?" + "a" * 30_000), 414, CLOSED),
    "url without end": (b"GET /" + HUGE, 414, CLOSED),
    "method without end": (b"G" * 20_000, 400, CLOSED),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, CLOSED),
    "http/1.2": (get(version="1.2"), 505, CLOSED),
    "http/0.9": (b"GET /echo\r\n\r\n", 400, CLOSED),
    "http/11": (get(version="11"), 400, CLOSED),
    "version in lower case": (b"GET /echo http/1.1\r\nHost: a\r\n\r\n", 400, CLOSED),
    "two spaces": (b"GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400, CLOSED),
    "space in target": (get("/echo x"), 400, CLOSED),
    "tab in target": (get("/echo\tx"), 400, CLOSED),
    "control byte in target": (get("/echo\x01"), 400, CLOSED),
    "delete in target": (get("/echo\x7f"), 400, CLOSED),
    "raw latin-1 in target": (get("/caf\xe9"), 400, CLOSED),
    "leading space": (b" " + get(), 400, CLOSED),
    "one leading empty line": (b"\r\n" + get(), 200, KEPT),
    "two leading empty lines": (b"\r\n\r\n" + get(), 400, CLOSED),
    "fragment": (get("/echo#x"), 400, CLOSED),
    "fragment in query": (get("/echo?a#x"), 400, CLOSED),
    "relative target": (get("echo"), 400, CLOSED),
    "star of get": (get("*"), 400, CLOSED),
    "star of options": (get("*", method="OPTIONS"), 404, KEPT),
    "absolute target": (get("http://b:80/echo?q"), 200, KEPT),
    "absolute target, no path": (get("http://b"), 404, KEPT),
    "absolute target, bad authority": (get("http://u@b/echo"), 400, CLOSED),
    "other scheme": (get("ftp://b/echo"), 400, CLOSED),
    "escaped letters": (get("/%65cho"), 200, KEPT),
    "escaped utf-8": (get("/caf%C3%A9"), 200, KEPT),
    "escaped, not utf-8": (get("/caf%E9"), 400, CLOSED),
    "escaped traversal": (get("/x/%2e%2e/echo"), 400, CLOSED),
    "half escaped traversal": (get("/x/.%2E/echo"), 400, CLOSED),
    "plain traversal": (get("/x/../echo"), 400, CLOSED),
    "dot segment": (get("/./echo"), 400, CLOSED),
    "escaped slash": (get("/x%2fecho"), 400, CLOSED),
    "escaped backslash": (get("/x%5Cecho"), 400, CLOSED),
    "backslash": (get("/x\\echo"), 400, CLOSED),
    "escaped nul": (get("/echo%00"), 400, CLOSED),
    "escaped newline": (get("/echo%0a"), 400, CLOSED),
    "twice escaped traversal": (get("/x/%252e%252e/echo"), 404, KEPT),
    "broken escape": (get("/ech%6"), 400, CLOSED),
    "broken escape, not hex": (get("/ech%zz"), 400, CLOSED),
    "two slashes": (get("//echo"), 404, KEPT),
    "trailing dots in a name": (get("/..echo"), 404, KEPT),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, CLOSED),
    # headers
    "no host": (head("GET /echo HTTP/1.1"), 400, CLOSED),
    "no host in http/1.0": (head("GET /echo HTTP/1.0"), 200, CLOSED),
    "two hosts": (get("/echo", "Host: a"), 400, CLOSED),
    "two different hosts": (get("/echo", "host: b"), 400, CLOSED),
    "empty host": (head("GET /echo HTTP/1.1", "Host: "), 400, CLOSED),
    "host with path": (head("GET /echo HTTP/1.1", "Host: a/b"), 400, CLOSED),
    "host with user": (head("GET /echo HTTP/1.1", "Host: u@a"), 400, CLOSED),
    "host with bad port": (head("GET /echo HTTP/1.1", "Host: a:x"), 400, CLOSED),
    "host with port": (head("GET /echo HTTP/1.1", "Host: a.b-c:80"), 200, KEPT),
    "host is ipv6": (head("GET /echo HTTP/1.1", "Host: [::1]:80"), 200, KEPT),
    "field of 16 KiB": (get("/echo", "X: " + "y" * (16384 - 3)), 200, KEPT),
    "field over 16 KiB": (get("/echo", "X: " + "y" * (16385 - 3)), 431, CLOSED),
    "field without end": (b"GET /echo HTTP/1.1\r\nHost: a\r\nX: " + HUGE, 431, CLOSED),
    "over 32 KiB in all": (get("/echo", *(f"X{n}: " + "y" * 11_000 for n in range(3))), 431, CLOSED),
    "100 fields": (many_fields(100), 200, KEPT),
    "101 fields": (many_fields(101), 431, CLOSED),
    "space before colon": (get("/echo", "X : y"), 400, CLOSED),
    "tab before colon": (get("/echo", "X\t: y"), 400, CLOSED),
    "folded": (get("/echo", "X: y", " z"), 400, CLOSED),
    "folded first line": (head("GET /echo HTTP/1.1", " Host: a"), 400, CLOSED),
    "nul in value": (get("/echo", "X: \0"), 400, CLOSED),
    "control in value": (get("/echo", "X: \x08"), 400, CLOSED),
    "bare cr in value": (get("/echo", "X: a\rb"), 400, CLOSED),
    "bare lf in value": (get("/echo", "X: a\nY: b"), 400, CLOSED),
    "bare lf everywhere": (b"GET /echo HTTP/1.1\nHost: a\n\n", 400, CLOSED),
    "bare lf at the end": (b"GET /echo HTTP/1.1\r\nHost: a\r\n\n", 400, CLOSED),
    "double cr": (b"GET /echo HTTP/1.1\r\r\nHost: a\r\n\r\n", 400, CLOSED),
    "empty name": (get("/echo", ": y"), 400, CLOSED),
    "name is no token": (get("/echo", "X(: y"), 400, CLOSED),
    "name is not ascii": (get("/echo", "X\xe9: y"), 400, CLOSED),
    "no colon": (get("/echo", "X"), 400, CLOSED),
    "empty value": (get("/echo", "X:"), 200, KEPT),
    "latin-1 in value": (get("/echo", "X: caf\xe9"), 200, KEPT),
    "other expectation": (post("/echo", b"{}", "Expect: 200-maybe"), 417, CLOSED),
    "content type json": (post("/json", b"{}", "Content-Type: application/json"), 200, KEPT),
    "content type json utf-8": (post("/json", b"{}", 'Content-Type: Application/JSON; charset="UTF-8"'), 200, KEPT),
    "content type +json": (post("/json", b"{}", "Content-Type: application/ld+json"), 200, KEPT),
    "no content type": (post("/json"), 200, KEPT),
    "content type utf-16": (post("/json", b"{}", "Content-Type: application/json; charset=utf-16"), 415, KEPT),
    "content type text": (post("/json", b"{}", "Content-Type: text/plain"), 415, KEPT),
    "content type form": (post("/json", b"{}", "Content-Type: application/x-www-form-urlencoded"), 415, KEPT),
    # framing
    "length and chunked": (CHUNKED_HEAD[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400, CLOSED),
    "same length twice": (post("/echo", b"{}", "Content-Length: 2"), 400, CLOSED),
    "two lengths": (post("/echo", b"{}", "Content-Length: 3"), 400, CLOSED),
    "length list": (head("POST /echo HTTP/1.1", "Host: a", "Content-Length: 2, 2") + b"{}", 400, CLOSED),
    **{
        f"length {length!r}": (head("POST /echo HTTP/1.1", "Host: a", f"Content-Length: {length}") + b"{}", 400, CLOSED)
        for length in ("+5", "-5", "0x5", "5.0", "1" * 20, "", "\xb2", "5 5", "2;x")
    },
    "coding gzip": (get("/echo", "Transfer-Encoding: gzip"), 400, CLOSED),
    "coding after chunked": (get("/echo", "Transfer-Encoding: chunked, gzip"), 400, CLOSED),
    "coding identity": (get("/echo", "Transfer-Encoding: identity"), 400, CLOSED),
    "chunked twice": (get("/echo", "Transfer-Encoding: chunked, chunked"), 400, CLOSED),
    "chunked misspelt": (get("/echo", "Transfer-Encoding: xchunked"), 400, CLOSED),
    "empty coding": (get("/echo", "Transfer-Encoding:"), 400, CLOSED),
    "coding before chunked": (get("/echo", "Transfer-Encoding: gzip, chunked"), 501, CLOSED),
    "chunked in http/1.0": (get("/echo", "Transfer-Encoding: chunked", version="1.0"), 400, CLOSED),
    "chunked": (chunked(b"hello", b", ", b"world"), 200, KEPT),
    "chunked, capitals": (CHUNKED_HEAD.replace(b"chunked", b"Chunked") + b"A\r\n0123456789\r\n0\r\n\r\n", 200, KEPT),
    "chunked, empty lines in data": (chunked(b"\r\n\r\n", b"\r\n", b"0\r\n\r\n"), 200, KEPT),
    "chunk extension": (CHUNKED_HEAD + b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n', 200, KEPT),
    "trailers": (CHUNKED_HEAD + b"5\r\nhello\r\n0\r\nX: y\r\nZ: w\r\n\r\n", 200, KEPT),
    "chunk size 0x5": (CHUNKED_HEAD + b"0x5\r\nhello\r\n0\r\n\r\n", 400, CLOSED),
    "chunk size +5": (CHUNKED_HEAD + b"+5\r\nhello\r\n0\r\n\r\n", 400, CLOSED),
    "chunk size empty": (CHUNKED_HEAD + b"\r\nhello\r\n0\r\n\r\n", 400, CLOSED),
    "chunk size with space": (CHUNKED_HEAD + b"5 \r\nhello\r\n0\r\n\r\n", 400, CLOSED),
    "chunk size too large": (CHUNKED_HEAD + b"FFFFFFFFFFFFFFFFF\r\nhello", 400, CLOSED),
    "chunk longer than its size": (CHUNKED_HEAD + b"5\r\nhelloX\r\n0\r\n\r\n", 400, CLOSED),
    "chunk ends in lf": (CHUNKED_HEAD + b"5\r\nhello\n0\r\n\r\n", 400, CLOSED),
    "chunk size ends in lf": (CHUNKED_HEAD + b"5\nhello\r\n0\r\n\r\n", 400, CLOSED),
    "endless extension": (CHUNKED_HEAD + b"5;" + HUGE, 400, CLOSED),
    "endless zeros": (CHUNKED_HEAD + b"0" * 20_000, 400, CLOSED),
    "endless trailers": (CHUNKED_HEAD + b"0\r\n" + b"X: y\r\n" * 2000, 400, CLOSED),
    "bad trailer": (CHUNKED_HEAD + b"0\r\nX : y\r\n\r\n", 400, CLOSED),
    "length in trailer": (CHUNKED_HEAD + b"0\r\nContent-Length: 5\r\n\r\n", 400, CLOSED),
    "body of the maximum": (post("/echo", b"x" * BODY_MAX), 200, KEPT),
    "body over the maximum": (post("/echo", b"x" * (BODY_MAX + 1)), 413, KEPT),
    "chunked of the maximum": (chunked(b"x" * BODY_MAX), 200, KEPT),
    "chunked over the maximum": (chunked(b"x" * BODY_MAX, b"y"), 413, CLOSED),
    "body over everything": (head("POST /echo HTTP/1.1", "Host: a", "Content-Length: 999999999999"), 413, CLOSED),
    "post without length": (get(method="POST"), 411, CLOSED),
    "put without length": (get(method="PUT"), 411, CLOSED),
    "delete without length": (get(method="DELETE"), 200, KEPT),
    "post of nothing": (post("/echo", b""), 200, KEPT),
    "get with body": (get("/echo", "Content-Length: 2") + b"{}", 200, KEPT),
    "refused": (post("/refuse"), 503, KEPT),
    "refused, chunked": (chunked(b"{}", path="/refuse"), 503, CLOSED),
    # compression
    "gzip": (packed(gzip.compress(b"hello")), 200, KEPT),
    "x-gzip": (packed(gzip.compress(b"hello"), coding="X-GZIP"), 200, KEPT),
    "deflate": (packed(zlib.compress(b"hello"), coding="deflate"), 200, KEPT),
    "raw deflate": (packed(zlib.compress(b"hello" * 9, wbits=-15), coding="deflate"), 200, KEPT),
    "identity": (packed(b"hello", coding="identity"), 200, KEPT),
    "gzip, chunked": (chunked(gzip.compress(b"hello"), headers=["Content-Encoding: gzip"]), 200, KEPT),
    "gzip of nothing": (packed(gzip.compress(b"")), 200, KEPT),
    "gzip to the maximum": (packed(gzip.compress(b"x" * BODY_MAX)), 200, KEPT),
    "gzip over the maximum": (packed(gzip.compress(b"x" * (BODY_MAX + 1))), 413, KEPT),
    "gzip bomb": (packed(gzip.compress(b"x" * 300_000)), 413, KEPT),
    "two layers": (packed(gzip.compress(gzip.compress(b"hello")), coding="gzip, gzip"), 415, KEPT),
    "brotli": (packed(b"hello", coding="br"), 415, KEPT),
    "corrupt gzip": (packed(gzip.compress(b"hello")[:-6] + b"xxxxxx"), 400, KEPT),
    "no gzip at all": (packed(b"hello"), 400, KEPT),
    "truncated gzip": (packed(gzip.compress(b"hello")[:-4]), 400, KEPT),
    "truncated gzip, chunked": (chunked(gzip.compress(b"hello")[:9], headers=["Content-Encoding: gzip"]), 400, KEPT),
    "gzip and more": (packed(gzip.compress(b"hello") + b"more"), 400, KEPT),
    "two gzip members": (packed(gzip.compress(b"a") + gzip.compress(b"b")), 400, KEPT),
    "nothing as gzip, chunked": (chunked(headers=["Content-Encoding: gzip"]), 400, KEPT),
    # the application
    "answered in begin": (post("/at-once"), 200, KEPT),
    "answered in begin, bodiless": (get("/at-once"), 200, KEPT),
    "fault in begin": (post("/fault-begin"), 500, KEPT),
    "fault in run": (post("/fault-run"), 500, KEPT),
    "refused in run": (post("/refuse-run"), 400, KEPT),
}


def splits(data):
    yield "whole", [data]
    if len(data) <= 2500:
        yield "byte by byte", [data[i : i + 1] for i in range(len(data))]
    points = {1, len(data) // 3, len(data) // 2, len(data) - 1} | {
        i + 1 for i in range(len(data)) if data[i : i + 1] == b"\r"
    }
    for point in sorted(points)[:24]:
        if 0 < point < len(data):
            yield f"cut at {point}", [data[:point], data[point:]]


@pytest.mark.parametrize("name", CASES)
def test_bytes_in_status_out(served, name):
    data, status, after = CASES[name]
    for how, pieces in splits(data):
        with served.connect() as client:
            client.send_pieces(pieces)
            answer = client.read()
            assert answer is not None, how
            assert answer.status == status, (how, answer)
            if status >= 400:
                assert set(answer_body(answer)) == {"error", "code", "execution", "retryable", "request_id"}
                assert answer_body(answer)["request_id"] == answer.headers["x-request-id"]
            assert (answer.headers.get("connection") == "close") == (after == CLOSED), (how, answer)
            if after == CLOSED:
                assert client.read() is None, how
            else:
                assert client.send(post("/echo", b'"again"')).read().body == b'"again"', how
    with served.connect() as client:
        assert client.send(post("/echo", b'"good"')).read().body == b'"good"'


def answer_body(answer):
    return msgspec.json.decode(answer.body)


def test_codes(served):
    expected = {
        "unknown route": "not_found",
        "wrong method": "method_not_allowed",
        "unknown method": "not_implemented",
        "url over 8 KiB": "uri_too_long",
        "http/2 preface": "http_version",
        "fragment": "bad_request",
        "101 fields": "headers_too_large",
        "other expectation": "expectation_failed",
        "content type text": "unsupported_media_type",
        "body over the maximum": "body_too_large",
        "post without length": "length_required",
        "corrupt gzip": "bad_encoding",
        "brotli": "unsupported_media_type",
        "refused": "queue_full",
        "fault in run": "internal",
    }
    for name, code in expected.items():
        with served.connect() as client:
            assert client.send(CASES[name][0]).read().code == code, name
    assert served.statistics.by_code == {code: list(expected.values()).count(code) for code in expected.values()}
