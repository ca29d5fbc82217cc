"""From a YAML file to plain data, with the line of each key.

The file is composed into nodes, which carry their places, and never constructed into objects. Only our own section is
walked: what the bot keeps in the others (tags, aliases, merges) is its own business and costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from exitfsm.config.mistakes import SECTION, Mistake, Origin, Path, word
from exitfsm.config.reading import NUMBER
from exitfsm.errors import ConfigError, nearest

if TYPE_CHECKING:
    import yaml

_SIZE_MAX = 1_000_000  # bytes in a file
_DEPTH_MAX = 20  # nesting in a file; the section needs 5
_NODES_MAX = 20_000  # keys and values in a file; in the section each alias counts as often as it is used
_NAME_MAX = 200  # characters of a file's name, or of the YAML reader's own words, in a message

_TAG = "tag:yaml.org,2002:"
_TRUTH = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_UNUSABLE = object()


def read_file(path: str | os.PathLike[str]) -> Origin:
    """The section of a YAML file.

    Raises:
        ConfigError: the file cannot be read, is too large, no UTF-8, no YAML, or has no such section.
    """
    name = word(os.fsdecode(path), _NAME_MAX)
    walk = _Walk(name)
    section = walk.section(_compose(name, _text_of(name, os.fsdecode(path))))
    return Origin(name, section, walk.lines, walk.mistakes)


def _text_of(name: str, path: str) -> str:
    try:
        with FilePath(path).open("rb") as file:
            data = file.read(_SIZE_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that no system takes
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError([f"{name}: cannot be read: {reason}"]) from None
    if len(data) > _SIZE_MAX:
        raise ConfigError([f"{name}: larger than {_SIZE_MAX} bytes: this is no configuration file"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A byte order mark is not part of what `start` counts, but it holds no line break either.
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{name}:{line}: not UTF-8; save the file with the encoding UTF-8"]) from None


def _compose(name: str, text: str) -> yaml.Node | None:
    import yaml

    loader = None
    try:
        loader = _loader_class()(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = ", ".join(part for part in (error.context, error.problem) if part)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"character {error.character:#06x} is not allowed"
    except (ValueError, OverflowError) as error:  # PyYAML hands whatever follows a \U to chr()
        line = loader.line + 1 if loader else 1
        what = str(error)
    raise ConfigError([f"{name}:{line}: not valid YAML: {word(what, _NAME_MAX)}"])


@cache
def _loader_class() -> type[yaml.SafeLoader]:
    """A composer with limits of depth and number, and with fewer surprises than YAML 1.1 has."""
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0
        nodes = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            self.depth += 1
            self.nodes += 1
            if self.depth > _DEPTH_MAX or self.nodes > _NODES_MAX:
                what = f"nested deeper than {_DEPTH_MAX} levels, or more than {_NODES_MAX} keys and values"
                raise yaml.composer.ComposerError(None, None, what, self.get_mark())
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    # Of the unquoted words only these are more than text: true, yes, on and the like; null; and plain numbers.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_TAG + "bool", _TAG + "null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(_TAG + "float", NUMBER, list("-+.0123456789"))
    return Loader


class _Walk:
    """From the nodes of the section to plain data. What its form gets wrong is collected, and left out of the data."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Path, int] = {}
        self.mistakes: list[Mistake] = []
        self._left = _NODES_MAX

    def section(self, root: yaml.Node | None) -> object:
        """The section in the document; an empty one has all the defaults.

        Raises:
            ConfigError: there is none.
        """
        import yaml

        pairs = root.value if isinstance(root, yaml.MappingNode) and root.tag == _TAG + "map" else []
        keys = {key.value: key.start_mark.line + 1 for key, _ in pairs if isinstance(key, yaml.ScalarNode)}
        if SECTION not in keys:
            guess = nearest(SECTION, keys)
            meant = f':{keys[guess]}: there is "{word(guess)}", but' if guess else ":"
            raise ConfigError([f"{self.name}{meant} the file has no section {SECTION}; begin one with `{SECTION}:`"])
        found = self._mapping([(key, value) for key, value in pairs if key.value == SECTION], ())
        self.lines = {path[1:]: line for path, line in self.lines.items()}
        self.mistakes = [mistake._replace(path=mistake.path[1:]) for mistake in self.mistakes]
        section = found.get(SECTION)
        return {} if section is None else section

    def _value(self, node: yaml.Node, path: Path) -> Any:
        import yaml

        self._left -= 1
        if self._left < 0 or len(path) > _DEPTH_MAX:
            place = f"{self.name}:{node.start_mark.line + 1}"
            raise ConfigError([f"{place}: {SECTION} holds more than {_NODES_MAX} values, or an alias inside itself"])
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node.value, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            self.lines |= {(*path, index): item.start_mark.line + 1 for index, item in enumerate(node.value)}
            items = [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            return _UNUSABLE if any(item is _UNUSABLE for item in items) else items
        return self._scalar(node, path)

    def _mapping(self, pairs: Sequence[tuple[yaml.Node, yaml.Node]], path: Path) -> dict[str, Any]:
        import yaml

        found: dict[str, Any] = {}
        for key, node in pairs:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.mistakes.append(Mistake(path, "a key must be a plain word", line))
                continue
            below = (*path, key.value)
            if below in self.lines:
                self.mistakes.append(Mistake(below, f"is given twice; first on line {self.lines[below]}", line))
                continue
            self.lines[below] = line
            if key.value == "<<":
                self.mistakes.append(Mistake(below, "merging is not supported here; write the settings out"))
            elif (value := self._value(node, below)) is not _UNUSABLE:
                found[key.value] = value
        return found

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text, tag = str(node.value), node.tag.removeprefix(_TAG)
        match tag:
            case "str":
                return text
            case "null":
                return None
            case "bool" if text.lower() in _TRUTH:
                return _TRUTH[text.lower()]
            case "int" | "float" if NUMBER.match(text):
                return Decimal(text)
        shown = "!!" + tag if node.tag.startswith(_TAG) else node.tag
        self.mistakes.append(Mistake(path, f"the tag {word(shown)} is not allowed here; write the plain value"))
        return _UNUSABLE
