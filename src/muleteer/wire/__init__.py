"""The protocols between processes, sans-IO: bytes in, frames out. Must not know asyncio or sockets.

`frames` is the layout, `connection` the rules of the data path (gateway to replica), `lines` the control path.
"""
