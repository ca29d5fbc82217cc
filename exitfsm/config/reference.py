"""What may be set, for people and for editors: the reference table and the JSON Schema, made from the structs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import time
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from exitfsm.config.mistakes import SECTION
from exitfsm.config.settings import NONE, Field, allowed, doc_of, plain_value, root_fields

_JSON_TYPES = {bool: "boolean", int: "integer", Decimal: "number"}
_NAMES = {bool: "true or false", int: "whole number", Decimal: "number", time: "time of day"}


class Setting(NamedTuple):
    """One row of the reference.

    Attributes:
        key: dotted, from below `exit_manager`; `[]` stands for each item of a list.
        type: a word for people; `section` for a section, which has neither default nor `allowed`.
        default: as it would be written in the file; `required` where there is none.
        allowed: what may stand there, in words.
        doc: what it does.
    """

    key: str
    type: str
    default: str
    allowed: str
    doc: str


def reference_table() -> list[Setting]:
    """Every section and setting in the order of the file; a section's row comes before those of its settings."""
    return list(_rows(root_fields(), ""))


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file, for editors and for programs that write one."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "exitfsm configuration",
        "description": f"A trading bot's file. Only the section {SECTION} is read.",
        "type": "object",
        "properties": {SECTION: _schema_of(root_fields(), "How positions are exited.")},
        "required": [SECTION],
        "additionalProperties": True,
    }


def _schema_of(fields: Sequence[Field], doc: str) -> dict[str, Any]:
    required = [field.name for field in fields if field.default is msgspec.NODEFAULT]
    return {
        "description": doc,
        "type": "object",
        "properties": {field.name: _schema_at(field) for field in fields},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _schema_at(field: Field) -> dict[str, Any]:
    doc = field.spec.doc
    if field.section:
        return _schema_of(field.inner, doc) | {"default": {}}
    schema: dict[str, Any] = {"description": doc, "type": _JSON_TYPES.get(field.type, "string")}
    if field.item:
        schema |= {"type": "array", "items": _schema_of(field.inner, doc_of(field.item))}
    if field.is_texts:
        schema |= {"type": "array", "items": {"type": "string", "minLength": 1}}
    if field.choices:
        schema["enum"] = field.choices
    if field.type is time:
        schema["pattern"] = "^([01]?[0-9]|2[0-3]):[0-5][0-9]$"
    keywords = zip(("exclusiveMinimum", "minimum", "exclusiveMaximum", "maximum"), field.limits, strict=True)
    schema |= {keyword: limit for keyword, limit in keywords if limit is not None}
    if field.spec.word:
        words = [{"const": word} for word in (field.spec.word, *([NONE] if field.may_be_none else []))]
        schema = {"description": doc, "anyOf": [schema, *words]}
    elif field.may_be_none:
        schema |= {"type": [schema["type"], "string"], "pattern": f"^{NONE}$"}
    if field.spec.secret:
        schema["writeOnly"] = True
    if field.default is not msgspec.NODEFAULT:
        schema["default"] = plain_value(field.default) if not field.listed else []
    return schema


def _rows(fields: Sequence[Field], prefix: str) -> Iterator[Setting]:
    for field in fields:
        key, doc = prefix + field.name, field.spec.doc
        if field.section:
            yield Setting(key, "section", "", "", doc)
            yield from _rows(field.inner, key + ".")
        elif field.item:
            yield Setting(key, "list", _default_of(field), allowed(field), doc)
            yield from _rows(field.inner, key + "[].")
        else:
            name = "list of texts" if field.is_texts else "word" if field.choices else _NAMES.get(field.type, "text")
            yield Setting(key, name, _default_of(field), allowed(field), doc)


def _default_of(field: Field) -> str:
    if field.default is msgspec.NODEFAULT:
        return "required"
    if field.listed:
        return "[]"
    text = json.dumps(plain_value(field.default))
    return text.strip('"') if field.choices or field.may_be_none else text
