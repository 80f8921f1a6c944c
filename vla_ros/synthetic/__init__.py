"""Checkpoints with made-up weights, for tests, demonstrations and benchmarks."""
