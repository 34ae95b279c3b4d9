"""The HTTP front: protocol, routing, admission, queue, links, dispatch. Must not know how replicas are started."""
