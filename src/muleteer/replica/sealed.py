"""TLS on one link, sans-IO: sealed bytes in, plain bytes out, and back. Must not know frames or loops."""

from __future__ import annotations

import ssl

from muleteer.base.errors import WireError
from muleteer.wire.tls import said

_READ_BYTES = 256 * 1024


class Sealed:
    """The end that was dialled. What arrives before the other end has proven itself is bounded by OpenSSL: it accepts
    100 KiB of certificates, and no plain byte comes out.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._proven = False

    def opened(self, data: bytes) -> bytes:
        """What has arrived, in plain. Raises WireError: the other end is none of ours, or the bytes are not TLS."""
        self._incoming.write(data)
        plain: list[bytes] = []
        try:
            if not self._proven:
                self._tls.do_handshake()
                self._proven = True
            while chunk := self._tls.read(_READ_BYTES):
                plain.append(chunk)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass  # the rest is to come, or the other end has said that nothing will
        except ssl.SSLError as error:
            raise WireError(f"TLS with the gateway failed: {said(error)}") from None
        return b"".join(plain)

    def seal(self, data: bytes) -> bytes:
        """What to send so that the other end reads `data`; with it what the handshake owes."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        return self._outgoing.read()
