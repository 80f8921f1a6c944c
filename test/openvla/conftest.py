"""The hub of the tests, for every test of this folder."""

from support.hub import empty_cache, hub  # noqa: F401
