"""A configuration file as values with their places.

YAML is composed into nodes, never constructed into objects: the type of each key decides how its scalar is read
(``config.values``), so that ``no`` can be an interface name, and every problem has a line and a column. All problems of a file are
collected. Aliases cannot expand: the walk follows the model, a model key holds at most a flat list or mapping, and a group has few
members.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from otel_netmon.config.keys import GROUPS, SECTIONS, Group, find, suggest
from otel_netmon.config.origins import Origin, Values
from otel_netmon.config.values import Invalid, Key, Value, show
from otel_netmon.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 16
"""Deeper nesting than any key has; libyaml and PyYAML compose by recursion."""

# libyaml where PyYAML was built with it: about four times faster, the same marks.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SUBSTITUTION = re.compile(
    r"\$\$|\$\{env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}|\$\{(?P<other>[^}]*)\}?"
)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value", "map", "seq")
)


class Problem(NamedTuple):
    """What is wrong at one place of a file; line and column count from 1."""

    line: int
    column: int
    message: str


def read_file(path: str, environ: Mapping[str, str]) -> tuple[Values, list[str]]:
    """Read a configuration file.

    Returns:
        The values, and the problems in the order of the file, each beginning with ``FILE:LINE:COLUMN:``.

    Raises:
        ConfigError: the file cannot be opened, or is larger than 1 MiB.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"cannot read the configuration file {path!r}: {reason}", "name a readable file with --config"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"{path}:1:1: the configuration file is larger than {MAX_FILE_BYTES} bytes", "split it or shorten it"
        )
    return read_text(content, path, environ)


def read_text(content: bytes, name: str, environ: Mapping[str, str]) -> tuple[Values, list[str]]:
    """Read the bytes of a configuration file; ``name`` stands for the file in origins and problems."""
    reader = _Reader(name, environ)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        reader.problems.append(_problem_at(before, "the file is not UTF-8"))
    else:
        reader.read(text)
    ordered = sorted(reader.problems, key=lambda problem: problem[:2])
    return reader.values, [f"{name}:{line}:{column}: {message}" for line, column, message in ordered]


def _problem_at(before: str, message: str) -> Problem:
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", before)
    return Problem(len(lines), len(lines[-1]) + 1, message)


def _problem(mark: Any, message: str) -> Problem:
    """A problem at a mark of PyYAML or libyaml, which count from 0; a parser that gives no mark means the beginning."""
    return Problem(1, 1, message) if mark is None else Problem(mark.line + 1, mark.column + 1, message)


def _depth_problem(text: str) -> Problem | None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return _problem(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


class _Reader:
    """One pass over one document; problems are collected, values of good keys kept."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.environ = environ
        self.values: Values = {}
        self.problems: list[Problem] = []

    def read(self, text: str) -> None:
        unreadable = _UNREADABLE.search(text)
        if unreadable is not None:
            character = f"U+{ord(unreadable[0]):04X}"
            self.problems.append(
                _problem_at(text[: unreadable.start()], f"the character {character} is not allowed in YAML")
            )
            return
        try:
            too_deep = _depth_problem(text)
            if too_deep is not None:
                self.problems.append(too_deep)
                return
            root = yaml.compose(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.problems.append(_problem(mark, f"not valid YAML: {error.problem or error.context}"))
            return
        if root is not None:
            self._section(root, "")

    def _section(self, node: yaml.Node, prefix: str) -> None:
        """Walk the mapping of one section; ``prefix`` is empty or ends with a dot."""
        for name_node, name, value_node in self._pairs(node, prefix.rstrip(".") or "top level"):
            full = prefix + name
            key = find(full)
            if "." in name and key is not None:
                self._complain(name_node, f"unknown key {show(full)}; write it nested, one level for each dot")
            elif full in SECTIONS:
                self._section(value_node, full + ".")
            elif full in GROUPS:
                self._group(GROUPS[full], value_node)
            elif key is not None:
                self._key(key, value_node)
            else:
                self._complain(name_node, f"unknown key {show(full)}{suggest(full)}")

    def _group(self, group: Group, node: yaml.Node) -> None:
        """Walk the sections of a group, each under a name of the file's own choice."""
        pairs = self._pairs(node, group.name)
        if len(pairs) > group.max_members:
            self._complain(node, f"{group.name}: there are {len(pairs)}, at most {group.max_members} are possible")
            return
        for name_node, name, value_node in pairs:
            fault = group.check(name)
            if fault is not None:
                self._complain(name_node, f"{group.name}: {show(name)}: {fault}")
            elif _is_null(value_node) or (isinstance(value_node, yaml.MappingNode) and not value_node.value):
                wanted = ", ".join(key.name for key in group.keys_of(name) if key.required)
                self._complain(name_node, f"{group.name}.{name} is empty, set {wanted}")
            else:
                self._section(value_node, f"{group.name}.{name}.")

    def _pairs(self, node: yaml.Node, what: str) -> list[tuple[yaml.Node, str, yaml.Node]]:
        """The entries of a mapping node, with problems for keys that are not text or come twice; none for null."""
        if _is_null(node):
            return []
        if not isinstance(node, yaml.MappingNode) or not self._known_tag(node):
            self._complain(node, f"{what}: expected a mapping of names to values, got {_describe(node)}")
            return []
        pairs: dict[str, tuple[yaml.Node, str, yaml.Node]] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode) or not self._known_tag(name_node):
                self._complain(name_node, f"{what}: a name must be text, not {_describe(name_node)}")
            elif name_node.value in pairs:
                first = pairs[name_node.value][0].start_mark.line + 1
                self._complain(name_node, f"{what}: {show(name_node.value)} is there twice, first in line {first}")
            else:
                pairs[name_node.value] = (name_node, name_node.value, value_node)
        return list(pairs.values())

    def _key(self, key: Key, node: yaml.Node) -> None:
        if key.kind == "mapping" and not isinstance(node, yaml.ScalarNode):
            self._mapping(key, node)
            return
        try:
            if isinstance(node, yaml.SequenceNode) and key.kind == "list" and self._known_tag(node):
                self._list(key, node)
            elif isinstance(node, yaml.ScalarNode) and self._known_tag(node):
                self._scalar(key, node)
            else:
                raise Invalid(f"expected {key.expectation()}, got {_describe(node)}")
        except Invalid as fault:
            self._complain(node, f"{key.name}: {fault}")

    def _list(self, key: Key, node: yaml.SequenceNode) -> None:
        items: list[str] = []
        for item in node.value:
            text = self._text(item, key.name)
            if text is None:
                continue
            try:
                key.validate((text,))
            except Invalid as fault:
                self._complain(item, f"{key.name}: {fault}")
            items.append(text)
        if not self.problems:
            self._keep(key, key.validate(items), node)

    def _scalar(self, key: Key, node: yaml.ScalarNode) -> None:
        text = self._substitute(node, key.name)
        if text is None:
            return
        if _is_null(node):
            if key.kind == "mapping":
                return
            if not key.optional:
                raise Invalid(f"expected {key.expectation()}, got null")
            self._keep(key, None, node)
        elif "${env:" in node.value or (_is_plain(node) and key.kind not in ("list", "mapping")):
            self._keep(key, key.parse(text), node)
        else:
            self._keep(key, key.validate(text), node)

    def _mapping(self, key: Key, node: yaml.Node) -> None:
        for name_node, name, value_node in self._pairs(node, key.name):
            text = self._text(value_node, f"{key.name}.{name}")
            if text is None:
                continue
            try:
                self._keep(key, key.validate({name: text}), name_node)
            except Invalid as fault:
                self._complain(value_node, f"{key.name}.{name}: {fault}")

    def _text(self, node: yaml.Node, what: str) -> str | None:
        """An item of a list or mapping, always text; None when a problem was noted."""
        if not isinstance(node, yaml.ScalarNode) or not self._known_tag(node) or _is_null(node):
            self._complain(node, f"{what}: expected text, got {_describe(node)}")
            return None
        return self._substitute(node, what)

    def _substitute(self, node: yaml.ScalarNode, what: str) -> str | None:
        """The scalar's text with ``${env:NAME}`` and ``${env:NAME:-DEFAULT}`` replaced and ``$$`` made ``$``."""
        faults: list[str] = []

        def replace(found: re.Match[str]) -> str:
            if found[0] == "$$":
                return "$"
            name, default = found["name"], found["default"]
            if name is None:
                faults.append(f"{show(found[0])} is not a substitution: write ${{env:NAME}}, or $$ for a dollar sign")
                return ""
            value = self.environ.get(name)
            if not value and default is not None:
                return str(default[2:])
            if value is None:
                faults.append(f"the environment variable {name} is not set")
                return ""
            return value

        text = _SUBSTITUTION.sub(replace, node.value)
        for fault in faults:
            self._complain(node, f"{what}: {fault}")
        return None if faults else text

    def _keep(self, key: Key, value: Value, node: yaml.Node) -> None:
        place = f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
        if not isinstance(value, dict):
            self.values[key.name] = (value, Origin("file", place))
            return
        for item, text in value.items():
            if f"{key.name}.{item}" in self.values:
                raise Invalid("is there twice, letter case does not count")
            self.values[f"{key.name}.{item}"] = (text, Origin("file", place))

    def _known_tag(self, node: yaml.Node) -> bool:
        return node.tag in _TAGS

    def _complain(self, node: yaml.Node, message: str) -> None:
        self.problems.append(_problem(node.start_mark, message))


def _is_plain(node: yaml.ScalarNode) -> bool:
    return not node.style  # None from PyYAML, "" from libyaml


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and _is_plain(node) and node.value in _NULLS


def _describe(node: yaml.Node) -> str:
    if node.tag not in _TAGS:
        return f"the tag {show(node.tag)}"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "null" if _is_null(node) else show(node.value)
