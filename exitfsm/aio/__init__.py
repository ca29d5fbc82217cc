"""Pieces of asyncio that know nothing of positions: tasks, work on one loop, turns to send, and a small event bus."""
