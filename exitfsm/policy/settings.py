"""Settings: what each is, and within which bounds.

Rules of this room: settings are data. They are stored inside events, so a field may be added with a default but never
removed, renamed or given another default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import msgspec


@dataclass(frozen=True)
class Spec:
    """Documentation and bounds of one setting: greater than `gt`, at least `ge`, at most `le`, below `lt`.

    `why` says why no other value is allowed, where the bare bound would puzzle. A `secret` is shown nowhere. A `word`
    may stand for the number 0.
    """

    doc: str
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    why: str = ""
    secret: bool = False
    word: str = ""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Base of the policy's sections. Unknown fields of a newer writer are ignored when read back.

    Where `listed` names a field, a file has the items of that field in the place of the section.
    """

    listed: ClassVar[str] = ""
