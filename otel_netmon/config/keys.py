"""The model as a flat table of keys: ``flows.top_k``, its type, range, default, meaning and names in the environment.

Sections under names of the configuration's own choice (``otlp.destinations.NAME``) are a ``Group``: its keys become ``Key`` s once
the name is known.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import msgspec

from otel_netmon.config.model import Config
from otel_netmon.config.section import Section
from otel_netmon.config.values import Key, Kind

_KINDS: dict[object, Kind] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    dict[str, str]: "mapping",
}


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Sections of one kind, each under a name that the configuration chooses.

    Attributes:
        name: dotted, without the chosen name: ``otlp.destinations``.
        keys: by their name within the section, in order; ``Key.name`` has ``NAME`` in the place of the chosen name.
        max_members: how many sections there may be.
        check: takes a chosen name and returns None, or what is wrong with it.
    """

    name: str
    description: str
    keys: dict[str, Key]
    max_members: int
    check: Callable[[str], str | None]

    def key(self, member: str, name: str) -> Key | None:
        """The key of this name in the section ``member``, or None where there is none or ``member`` is no good name."""
        key = self.keys.get(name)
        if key is None or self.check(member) is not None:
            return None
        return msgspec.structs.replace(key, name=f"{self.name}.{member}.{name}")

    def members(self, names: Iterable[str]) -> list[str]:
        """The chosen names that occur in dotted names, sorted."""
        start = self.name + "."
        return sorted({name[len(start) :].partition(".")[0] for name in names if name.startswith(start)})

    def keys_of(self, member: str) -> Iterator[Key]:
        """All keys of one section, in order; ``member`` is a good name."""
        for name, key in self.keys.items():
            yield msgspec.structs.replace(key, name=f"{self.name}.{member}.{name}")


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, Key | Group | None]]:
    """The names of a section in order, with their keys and groups; None for a section within."""
    hints = typing.get_type_hints(section, include_extras=True)
    # A field that a subclass adds or declares anew comes last; these two are what a reader looks for first.
    first = ("enabled", "endpoint")
    fields = msgspec.structs.fields(section)
    for field in sorted(fields, key=lambda field: first.index(field.name) if field.name in first else len(first)):
        name, annotation = prefix + field.name, hints[field.name]
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield name, None
            yield from _walk(annotation, name + ".")
            continue
        inner, meta = typing.get_args(annotation)
        kind = typing.get_args(inner)[-1] if typing.get_origin(inner) is dict else None
        if isinstance(kind, type) and issubclass(kind, Section):
            keys = {key.name.rpartition(".")[2]: key for _, key in _walk(kind, name + ".NAME.") if isinstance(key, Key)}
            yield (
                name,
                Group(
                    name=name,
                    description=meta.description,
                    keys=keys,
                    max_members=meta.max_length,
                    check=meta.extra["check"],
                ),
            )
        else:
            yield name, _key(name, annotation, field)


def _key(name: str, annotation: Any, field: msgspec.structs.FieldInfo) -> Key:
    inner, meta = typing.get_args(annotation)
    optional = isinstance(inner, types.UnionType)
    if optional:
        (inner,) = (member for member in typing.get_args(inner) if member is not type(None))
    is_list = typing.get_origin(inner) is tuple
    item = typing.get_args(inner)[0] if is_list else inner
    choices = typing.get_args(item) if typing.get_origin(item) is Literal else ()
    extra = meta.extra or {}
    return Key(
        name=name,
        kind="list" if is_list else "choice" if choices else _KINDS[inner],
        optional=optional,
        annotation=annotation,
        default=_default(field),
        required=field.required,
        description=meta.description,
        minimum=meta.ge if meta.ge is not None else -math.inf,
        maximum=meta.le if meta.le is not None else math.inf,
        choices=choices,
        secret=extra.get("secret", False),
        fold_case=extra.get("fold_case", False),
        check=extra.get("check"),
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.required:
        return None
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


ORDER: tuple[tuple[str, Key | Group | None], ...] = tuple(_walk(Config, ""))
"""Every dotted name of the model in its order: keys, groups, and None for sections."""
KEYS: dict[str, Key] = {name: item for name, item in ORDER if isinstance(item, Key)}
"""Every key by its dotted name, without those of groups."""
GROUPS: dict[str, Group] = {name: item for name, item in ORDER if isinstance(item, Group)}
"""Every group by its dotted name."""
SECTIONS: frozenset[str] = frozenset(name for name, item in ORDER if item is None)
"""The dotted names of all sections."""


def find(name: str) -> Key | None:
    """The key of a dotted name, one of a group included: ``otlp.destinations.backup.endpoint``."""
    if name in KEYS:
        return KEYS[name]
    place = _in_group(name)
    return place[0].key(*place[1:]) if place is not None else None


def resolve(name: str) -> tuple[Key, str | None] | None:
    """The key of a dotted name; for ``otlp.headers.NAME`` the mapping's key and ``NAME``, which may hold dots itself."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        key = find(".".join(parts[:length]))
        if key is None:
            continue
        item = ".".join(parts[length:])
        if not item and length == len(parts):
            return key, None
        return (key, item) if item and key.kind == "mapping" else None
    return None


def _in_group(name: str) -> tuple[Group, str, str] | None:
    """A dotted name below a group, taken apart: the group, the chosen name, and what follows it (may be empty)."""
    for group in GROUPS.values():
        if name.startswith(group.name + "."):
            member, _, rest = name[len(group.name) + 1 :].partition(".")
            return group, member, rest
    return None


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a mistyped name most likely meant, or None when nothing is close."""
    import difflib  # only when there is an error to explain

    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(name: str) -> str:
    """For a dotted name that is not in the model: the end of an error message that helps to find the right one, or nothing.

    Looked for in this order: a similar name in the same section, the same name in another section, a similar dotted name,
    first of those that begin alike.
    """
    place = _in_group(name)
    if place is not None:
        group, member, rest = place
        fault = group.check(member)
        if fault is not None:
            return f"; {fault}"
        known = [f"{group.name}.{member}", *(key.name for key in group.keys_of(member))]
    elif name in GROUPS:
        return f"; it holds sections under names of your choice, set {name}.NAME.KEY"
    else:
        known = [*KEYS, *SECTIONS, *GROUPS]
    if name in SECTIONS or (place is not None and not rest):
        return "; it is a section, set one of its keys"
    parent, _, last = name.rpartition(".")
    siblings = [item for item in known if item.rpartition(".")[0] == parent]
    similar = nearest(last, [item.rpartition(".")[2] for item in siblings])
    if similar is not None:
        return f"; did you mean {parent}.{similar}?" if parent else f"; did you mean {similar}?"
    near = [key for key in KEYS if key.partition(".")[0] == name.partition(".")[0]]
    namesakes = [item for item in known if item.rpartition(".")[2] == last]
    elsewhere = nearest(name, namesakes) or next(iter(namesakes), None) or nearest(name, near) or nearest(name, KEYS)
    if elsewhere is not None:
        return f"; did you mean {elsewhere}?"
    return f"; {parent} has {', '.join(item.rpartition('.')[2] for item in siblings)}" if parent and siblings else ""
