"""Where each value of a configuration came from, and the configuration as text with that origin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from otel_netmon.config import checks
from otel_netmon.config.keys import ORDER, Group
from otel_netmon.config.model import Config
from otel_netmon.config.values import Key, Value

Kind = Literal["default", "environment", "flag", "file", "set"]

STRENGTH: dict[Kind, int] = {"default": 0, "environment": 1, "flag": 2, "file": 3, "set": 4}
"""Precedence: an explicit key (``set``, then ``file``) beats a flag, a flag the environment, the environment the default."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


class Origin(NamedTuple):
    """Where a value came from.

    Attributes:
        kind: the source.
        source: what in that source: ``FILE:LINE:COLUMN``, a flag, a variable; empty for a default.
    """

    kind: Kind
    source: str = ""

    def __str__(self) -> str:
        return self.kind if not self.source else f"{self.kind} {self.source}" if self.kind != "set" else self.source


DEFAULT = Origin("default")

Values = dict[str, tuple[Value, Origin]]
"""Dotted names with value and origin; a mapping is there entry by entry (``otlp.headers.NAME``)."""


class Entry(NamedTuple):
    """One line of print-config: a key, or one entry of a mapping, with its value and origin."""

    path: tuple[str, ...]
    value: Any
    origin: Origin

    @property
    def name(self) -> str:
        """The dotted name, as ``--set`` takes it."""
        return ".".join(self.path)


def entries(config: Config, origins: Mapping[str, Origin], show_secrets: bool = False) -> Iterator[Entry]:
    """All values of a configuration in the order of the model.

    Args:
        config: the values.
        origins: by dotted name; for mappings by entry (``otlp.headers.NAME``). A name that is not there is a default.
        show_secrets: give header values and passwords in URLs as they are in place of ``[REDACTED]``.
    """
    for name, item in ORDER:
        if isinstance(item, Key):
            yield from _entries_of(item, config, origins, show_secrets)
        elif isinstance(item, Group):
            members = members_of(config, item)
            if not members:
                yield Entry(tuple(name.split(".")), {}, DEFAULT)
            for member in members:
                for key in item.keys_of(member):
                    yield from _entries_of(key, config, origins, show_secrets)


def _entries_of(key: Key, config: Config, origins: Mapping[str, Origin], show_secrets: bool) -> Iterator[Entry]:
    path = tuple(key.name.split("."))
    value = value_of(config, key.name)
    if isinstance(value, dict) and value:
        for item in sorted(value):
            shown = checks.MASK if key.secret and not show_secrets else value[item]
            yield Entry((*path, item), shown, origins.get(f"{key.name}.{item}", DEFAULT))
        return
    if key.check in (checks.endpoint, checks.proxy) and isinstance(value, str) and not show_secrets:
        value = checks.mask_userinfo(value)
    yield Entry(path, value, origins.get(key.name, DEFAULT))


def value_of(config: Config, name: str) -> Value:
    """The value of a dotted key, which exists: of a group, one of a section that is there."""
    node: Any = config
    for part in name.split("."):
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    value: Value = node
    return value


def members_of(config: Config, group: Group) -> list[str]:
    """The names of the sections of a group, sorted."""
    node: Any = config
    for part in group.name.split("."):
        node = getattr(node, part)
    return sorted(node)


def as_yaml(config: Config, origins: Mapping[str, Origin], show_secrets: bool = False) -> str:
    """The configuration as YAML that ``--config`` takes, each value with its origin as a comment."""
    rows: list[tuple[str, str]] = []
    opened: tuple[str, ...] = ()
    for entry in entries(config, origins, show_secrets):
        path = entry.path
        for depth in range(len(path) - 1):
            if opened[: depth + 1] != path[: depth + 1]:
                opened = path[: depth + 1]
                rows.append((f"{'  ' * depth}{_quote(path[depth])}:", ""))
        indent = "  " * (len(path) - 1)
        rows.append((f"{indent}{_quote(path[-1])}: {scalar(entry.value)}", _one_line(str(entry.origin))))
    width = min(60, max(len(text) for text, _ in rows))
    return "".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in rows)


def as_mapping(config: Config, origins: Mapping[str, Origin], show_secrets: bool = False) -> dict[str, dict[str, Any]]:
    """The configuration as ``{dotted key: {value, origin, source}}``, ready for JSON."""
    return {
        entry.name: {"value": entry.value, "origin": entry.origin.kind, "source": entry.origin.source}
        for entry in entries(config, origins, show_secrets)
    }


def scalar(value: object) -> str:
    """One value as YAML on one line, a dollar sign doubled so that reading it back gives the same text."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _quote(value.replace("$", "$$"))
    if isinstance(value, tuple):
        return "[" + ", ".join(_quote(item.replace("$", "$$")) for item in value) + "]"
    if isinstance(value, dict):
        return "{}"
    import yaml  # 1 MB, for print-config only

    return str(yaml.safe_dump(value)).splitlines()[0]


def _quote(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    import yaml

    return str(yaml.safe_dump(text, default_style='"', width=float("inf"))).rstrip("\n")


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)
