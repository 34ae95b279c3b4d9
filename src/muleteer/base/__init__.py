"""What every room stands on: errors, limits, clocks. Imports nothing else of muleteer."""
