"""Fixtures of the tests that need one real store."""

from __future__ import annotations

from tests.lua import server
from tests.workers import calm_loop, store, unasked, worker, workers

__all__ = ["calm_loop", "server", "store", "unasked", "worker", "workers"]
