"""The benchmark, and the load generator that the fault tests share with it."""
