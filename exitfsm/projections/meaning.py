"""What each table of the read models is for, and what each of its columns means, for those who query them.

Rules of this room: text only. A test holds these words against the columns that there are.
"""

from __future__ import annotations

#: table -> what one row is.
TABLES: dict[str, str] = {
    "exit_orders": "One row for each exit order, in the order in which they were decided. The database refuses a "
    "second row of one position that may be working.",
    "position_tracking": "One row for each symbol: its newest position, and the last look at its price.",
    "positions": "One row for each position, open or ended.",
    "alarms": "One row for each alarm. It is active until `acknowledged_at_utc` is set.",
}

#: table -> column -> what it means.
COLUMNS: dict[str, dict[str, str]] = {
    "exit_orders": {
        "id": "number of the row",
        "client_order_id": "our id of the order, which the broker knows it by",
        "symbol": "symbol of the instrument",
        "side": "`sell` closes a long position, `buy` a short one",
        "qty": "quantity that the order is for",
        "filled_qty": "quantity of it that has filled",
        "avg_fill_price": "average price of its fills; empty before the first",
        "exit_type": "rule that triggered the exit, as listed in [alarms and other kinds](alarms.md)",
        "entry_price": "average entry price of the position when the exit was triggered",
        "target_price": "level that was breached; empty where no price decided",
        "threshold_pct": "distance of that level from the entry, percent",
        "status": "state of the order: `pending`, `submitted`, `partial`, `canceling`, `filled`, `rejected`, "
        "`canceled` or `expired`",
        "alpaca_order_id": "the broker's own id of the order, of whichever broker",
        "resubmit_count": "how many attempts of this exit came before; 0 for the first",
        "created_at_utc": "when the exit, or this attempt, was decided",
        "updated_at_utc": "when an event last changed the row",
        "filled_at_utc": "when the broker filled it wholly; empty before",
        "position_id": "position that it exits",
    },
    "position_tracking": {
        "symbol": "symbol of the instrument; one row for each",
        "qty": "quantity that is watched",
        "avg_entry_price": "average entry price",
        "current_price": "price at the last look; not of an event, so that a check leaves it out",
        "unrealised_pnl_pct": "profit at that price, percent of the entry; not of an event",
        "highest_price": "best price since the entry (of a short position the lowest); not of an event",
        "exit_order_id": "`id` of its newest row in `exit_orders`; empty before the first exit",
        "status": "state of the position, as listed in [states](states.md)",
        "last_evaluated_at_utc": "when a bar or price last decided something or nothing; not of an event",
        "created_at_utc": "when the position was opened",
        "updated_at_utc": "when an event last changed the row",
        "position_id": "position that the row shows",
    },
    "positions": {
        "position_id": "`symbol:side:epoch:account`",
        "account": "account's name, or the short form of the broker's own id of it",
        "symbol": "symbol of the instrument",
        "side": "`long` or `short`",
        "epoch": "time of the first fill, or another mark of when the position began",
        "strategy_name": "strategy that opened it, as the bot says",
        "state": "state, as listed in [states](states.md)",
        "qty": "quantity that is watched",
        "entry_price": "average entry price",
        "opened_at_utc": "when it was opened",
        "exit_reason": "rule that triggered its last exit; empty before the first",
        "sold_qty": "quantity that our exits have sold over its whole life (of a short position: bought back)",
        "avg_exit_price": "average price of that quantity",
        "ended_at_utc": "when it ended; empty while it is open",
        "cooldown_until_utc": "until when `may_enter` refuses the symbol because of this exit",
        "version": "number of its newest event",
        "open_alarms": "how many of its alarms are active",
    },
    "alarms": {
        "alarm_id": "id of the alarm within its stream",
        "stream_id": "position or account that it concerns",
        "kind": "kind, as listed in [alarms and other kinds](alarms.md)",
        "text": "what happened, to what, and what to do",
        "raised_at_utc": "when it was raised",
        "acknowledged_by": "who acknowledged it: a person, or `exitfsm` where it ended by itself",
        "acknowledged_at_utc": "when that was; empty while it is active",
    },
}

__all__ = ["COLUMNS", "TABLES"]
