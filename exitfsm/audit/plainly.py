"""Facts as plain data for JSON: numbers as text in plain digits, times as `YYYY-MM-DDTHH:MM:SSZ`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from exitfsm.values import plain, stamp


def plainly(value: Any) -> Any:
    """A value as JSON data; structs become objects, in the order of their fields."""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, msgspec.Struct):
        given = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return {name: plainly(one) for name, one in given if one is not msgspec.UNSET}
    if isinstance(value, Mapping):
        return {str(key): plainly(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plainly(item) for item in value]
    return value
