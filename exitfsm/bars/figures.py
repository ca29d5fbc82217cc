"""Numbers as files write them: 1234.5, 1,234.5, 1.234,5, 1 234,5, $1,234.50; and how to tell which way a file has.

Rules of this room: what a text means is settled once for a file, from many of its numbers, and each later one must be
written that way: `1,234` that could be either never changes its meaning from line to line. A cell that holds no price
(nothing, `null`, `-`) is NaN: a bar with it is refused by the engine, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal

from exitfsm.values import decimal_of

#: What stands in a cell without a figure.
NOTHING = frozenset({"", "-", "--", "null", "none", "n/a", "na", "nan", "#n/a", "<na>", "nat"})
_MONEY = "$€£¥₹"
_SCALES = {"k": 3, "m": 6, "b": 9, "t": 12}
_AMERICAN = re.compile(r"[+-]?\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d*)?")  # in India the upper groups have two digits
_EUROPEAN = re.compile(r"[+-]?(?:\d{1,3}(?:[.\s'’]\d{3})+|\d+)(?:,\d*)?|[+-]?,\d+")
_SPACED = re.compile(r"[+-]?\d{1,3}(?:[\s'’]\d{3})+(?:\.\d*)?")

Figure = Callable[[str], str]


def plainly(text: str) -> str:
    """A number with a decimal point and perhaps thousands separators, as plain text for `Decimal`.

    Raises:
        ValueError: it is no number of this kind.
    """
    bare = _bare(text)
    if bare.lower() in NOTHING:
        return "NaN"
    if _AMERICAN.fullmatch(bare):
        bare = bare.replace(",", "")
    elif _SPACED.fullmatch(bare):
        bare = re.sub(r"[\s'’]", "", bare)
    return _checked(bare)


def with_decimal_comma(text: str) -> str:
    """A number with a decimal comma and perhaps dots or blanks between thousands, as plain text for `Decimal`.

    Raises:
        ValueError: it is no number of this kind.
    """
    bare = _bare(text)
    if bare.lower() in NOTHING:
        return "NaN"
    if not _EUROPEAN.fullmatch(bare):
        if "." in bare and "," not in bare:
            raise ValueError("has a decimal point, where the lines before have decimal commas")
        return _checked(bare)
    return _checked(re.sub(r"[.\s'’]", "", bare).replace(",", "."))


def _bare(text: str) -> str:
    return text.strip().strip(_MONEY).strip() if text else text


def _checked(text: str) -> str:
    """The text where it is a number both as float and as Decimal, NaN and infinity among them."""
    float(text)
    decimal_of(text)
    return text


def volume(text: str, figure: Figure) -> str:
    """A traded quantity: nothing is decided by it, so that none, `1.2M` and the like do.

    Raises:
        ValueError: it is no number.
    """
    bare = _bare(text)
    if bare.lower() in NOTHING:
        return "0"
    scale = _SCALES.get(bare[-1].lower()) if bare[:-1] else None
    return figure(bare) if scale is None else str(Decimal(figure(bare[:-1])).scaleb(scale))


def is_number(text: str) -> bool:
    """True for what is a number in one of the ways."""
    for figure in (plainly, with_decimal_comma):
        try:
            figure(text)
        except ValueError:
            continue
        return True
    return False


def way_of(texts: Iterable[str], separator: str) -> Figure:
    """How the prices of a file are written, from many of them.

    `1,234` alone is a thousand and more where commas separate the fields (and it is in quotes), and little more than
    one where they do not: whoever has decimal commas does not separate fields by them.
    """
    comma = separator != ","
    evidence: set[bool] = set()
    for text in texts:
        bare = _bare(text)
        point, at = bare.rfind("."), bare.rfind(",")
        if at >= 0 and point >= 0:
            evidence.add(at > point)
        elif at >= 0 and bare.count(",") == 1 and len(bare) - at - 1 != 3:
            evidence.add(True)
        elif (at >= 0 and bare.count(",") > 1) or (point >= 0 and bare.count(".") == 1 and len(bare) - point - 1 != 3):
            evidence.add(False)
        elif at < 0:
            continue
        else:
            evidence.add(comma)
    return with_decimal_comma if evidence == {True} else plainly


__all__ = ["NOTHING", "Figure", "is_number", "plainly", "volume", "way_of", "with_decimal_comma"]
