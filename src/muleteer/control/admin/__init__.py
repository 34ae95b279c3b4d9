"""The admin API: HTTP over what the controller knows and can do. Must not know how anything is done: it asks."""
