"""Clients of the admin API. Must not know anything of the server but HTTP."""
