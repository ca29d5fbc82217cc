"""The read models: what each event means for the tables that people and the bot's own SQL look at.

`exit_orders` has one row for each exit order, `position_tracking` one for the newest position of each symbol,
`positions` one for each position, `alarms` one for each alarm. They are written in the transaction that stores the
events, so that they are never behind, and they can be made again from the events: the same rows, ids included.

The tables are views, with money and quantities as NUMERIC, so that they compare as numbers in SQL. They hold about 15
digits; the truth, exact to the last digit, is the events, from which a row read through `ExitStore` has the rest. While
folding, a row holds each value as the database has it (whole numbers as int, others as float, times as ISO text), so
that a row that was written and read again is the same.

Marks (current price, profit, best price, time of the last look) are no events: the engine has them written now and
then, and whatever compares or rebuilds the tables leaves them out.
"""

from exitfsm.projections.folding import ACCOUNT_PREFIX, ReadModels, stamp_ns
from exitfsm.projections.tables import (
    HELD,
    KINDS,
    MARK,
    MARKS,
    OPEN,
    TABLES,
    AlarmRow,
    ExitOrderRow,
    HeldRow,
    Kind,
    Mark,
    PositionRow,
    Row,
    Shape,
    TrackingRow,
    ddl,
    differences,
    mark_params,
    shape,
)

__all__ = [
    "ACCOUNT_PREFIX",
    "HELD",
    "KINDS",
    "MARK",
    "MARKS",
    "OPEN",
    "TABLES",
    "AlarmRow",
    "ExitOrderRow",
    "HeldRow",
    "Kind",
    "Mark",
    "PositionRow",
    "ReadModels",
    "Row",
    "Shape",
    "TrackingRow",
    "ddl",
    "differences",
    "mark_params",
    "shape",
    "stamp_ns",
]
