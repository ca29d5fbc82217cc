"""Puts this folder's helpers beside the tests."""
