"""The Ray engine: each replica is a detached actor, placed by Ray, kept by us. The one room that imports ray."""
