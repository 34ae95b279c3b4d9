"""What is declared: frozen types, their loading, and the routing snapshot made from them. Must not know processes or sockets."""
