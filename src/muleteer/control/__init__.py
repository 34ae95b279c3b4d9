"""Compares what is declared with what runs, and acts on the difference. Must not know gateway internals."""
