"""The parent of every process: states, restart policy, the loop. Must not know models or HTTP."""
