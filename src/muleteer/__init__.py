"""muleteer: takes a plain Python class and serves it in production."""

__version__ = "0.1.0"
