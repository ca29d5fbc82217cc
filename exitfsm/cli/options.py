"""Arguments and options that several commands share, and how their values are read."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from exitfsm.values import decimal_of, plain

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead, for programs.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The store: a file, or postgresql://…; only read.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file with an exit_manager section.")
]
LiveFlag = Annotated[bool, typer.Option("--live", help="Alpaca: trade real money; needs --account.")]
AccountOption = Annotated[
    str | None, typer.Option("--account", metavar="NUMBER", help="Alpaca: the account's number, to confirm it.")
]


def quantity(text: str | Decimal) -> Decimal:
    """A quantity from the command line: a finite number above 0."""
    value = _number(text)
    if not value > 0:
        raise typer.BadParameter(f"{text} is not above 0")
    return Decimal(plain(value))


def slippage(text: str | Decimal) -> Decimal:
    """A percentage from 0 to below 100."""
    value = _number(text)
    if not 0 <= value < 100:
        raise typer.BadParameter(f"{text} is not from 0 to below 100")
    return Decimal(plain(value))


def _number(text: str | Decimal) -> Decimal:
    try:
        value = decimal_of(str(text).strip())  # a default comes as it is, not as text
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    # The exponent decides how long it is in plain digits.
    if not value.is_finite() or abs(value.adjusted()) > 18 or len(value.as_tuple().digits) > 30:
        raise typer.BadParameter(f"{text!r} is not a number that can be traded")
    return value
