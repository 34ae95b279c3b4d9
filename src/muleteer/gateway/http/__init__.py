"""HTTP/1.1 on one side, `gateway.exchange` on the other. Must not know routes, queues, links or models.

    bounds    every limit of a connection, so that tests can run with short ones
    head      the request line and the fields: bytes in, `RequestHead` out, strict
    media     Content-Type and Content-Encoding
    body      sinks for bodies (plain, gzip, deflate) and the chunked framing
    respond   answers and error bodies: values in, bytes out
    tally     the outcomes of requests
    ports     what these expect of those above them
    turn      one request in the order of its connection
    line      those turns, and the order in which their answers leave
    outlet    bytes on their way to the client
    protocol  the asyncio.Protocol: a table of states over all of the above
    server    the set of connections, their cap, the sweep of deadlines, draining

The head is parsed by our own code and llhttp is used for the chunked framing only. Probing llhttp showed that it is
strict, yet lets pass two Hosts, fragments, HTTP/0.9 and requests without Host; that its errors do not tell a 400 from a
431, 501 or 505; that it bounds nothing; and that it cannot pause between pipelined requests. Checks for all of that
have to look at every field again in Python callbacks. One regular expression over the whole block is stricter,
says what is wrong, and costs about 4 us for a usual head.
"""
