"""Public fakes, for our tests and for those of others. Must not know the gateway, the supervisor or the controller."""
