"""Bars from files, under the name by which they were first read: see `exitfsm.bars`.

for bar in read_bars("AAPL.csv", "SPY.csv"): ...
"""

from exitfsm.bars import COLUMNS, FileRead, read_bars

__all__ = ["COLUMNS", "FileRead", "read_bars"]
