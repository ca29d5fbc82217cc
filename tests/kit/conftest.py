"""The kit's own fixtures."""

from __future__ import annotations

from exitfsm.testing.plugin import exit_clock, exit_manager, exit_store, scripted_broker

__all__ = ["exit_clock", "exit_manager", "exit_store", "scripted_broker"]
