"""Bars as people have them: files of any usual kind, read into `Bar`s in time order.

    from exitfsm.bars import read_bars

    for bar in read_bars("AAPL.csv", "BTCUSDT-1m-2024-01.zip"): ...

Rules of this room: reading only. What a bar means for a position is the engine's business; nothing here knows one.
"""

from exitfsm.bars.reading import COLUMNS, FileRead, read_bars

__all__ = ["COLUMNS", "FileRead", "read_bars"]
