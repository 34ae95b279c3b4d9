"""`relay.py SOCKET`: stands where the controller stands, and lends its control channel to one client of SOCKET."""

import json
import os
import selectors
import socket
import sys
from pathlib import Path

control = socket.socket(fileno=json.loads(os.environ["MULETEER_FDS"])["control"])
path = Path(sys.argv[1])
path.unlink(missing_ok=True)
listening = socket.socket(socket.AF_UNIX)
listening.bind(str(path))
listening.listen(1)
control.sendall(b'{"type":"ready","info":{}}\n')
client, _ = listening.accept()
path.unlink()
listening.close()
selector = selectors.DefaultSelector()
selector.register(control, selectors.EVENT_READ, client)
selector.register(client, selectors.EVENT_READ, control)
while True:
    for key, _ in selector.select():
        data = key.fileobj.recv(65536)
        if not data:
            sys.exit(0)
        key.data.sendall(data)
