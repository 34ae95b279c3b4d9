"""The child process that holds the user's model: socket in, model out. Must not know anything above wire and spec."""
