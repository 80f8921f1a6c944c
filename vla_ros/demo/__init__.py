"""The demonstrations that ``vla_demo`` shows."""
