"""Where replicas live: one port, one module per place. Must not know HTTP, queues or routing."""
