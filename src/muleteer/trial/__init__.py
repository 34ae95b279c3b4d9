"""Replicas by themselves, called and measured before they serve anyone."""
