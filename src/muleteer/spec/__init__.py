"""What is declared: frozen types, their loading, the routing snapshot. Must not know processes or sockets."""
