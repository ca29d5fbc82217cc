"""Alpaca's words to ours and back, over alpaca-py: broker, trade updates, minute bars.

    access = Access.from_environment()
    broker = AlpacaBroker(access)
    manager = ExitManager(broker, "exits.db", None, "trading.yaml", account=broker.account_name())
    updates = AlpacaUpdates(access, broker, manager.on_order_update, manager.sync)
    async with manager, updates, AlpacaBars(access, noticed=broker.noticed) as bars:
        async for batch in bars.batches():
            await manager.on_bars(batch)

Rules of this room: a translation table and thin methods; what to do about an answer is decided elsewhere. Numbers go
out as exact text and come in as `Decimal`, because the SDK's own models make floats of them and fail on the first value
they do not know. Every call has a time limit and is made once: the SDK's retries are off. What an answer does not prove
is raised as unknown. alpaca-py (and with it pandas) is imported when the first of these objects is made.
"""

from exitfsm_alpaca.access import LIVE_URL, PAPER_URL, Access
from exitfsm_alpaca.bars import AlpacaBars
from exitfsm_alpaca.broker import ALPACA, AlpacaBroker
from exitfsm_alpaca.updates import AlpacaUpdates

__all__ = ["ALPACA", "LIVE_URL", "PAPER_URL", "Access", "AlpacaBars", "AlpacaBroker", "AlpacaUpdates"]
