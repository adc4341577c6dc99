"""The model as a flat table of keys: ``flows.top_k``, its type, range, default, meaning and names in the environment.

A key's type decides how a text is read, never the text itself: ``on`` is a name in ``interfaces.include`` and true in
``probes.xdp.enabled``. The same rules serve YAML, ``--set`` and environment variables.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from otel_netmon.config.model import Config, Section

Kind = Literal["boolean", "integer", "number", "text", "choice", "list", "mapping"]
Value = bool | int | float | str | tuple[str, ...] | dict[str, str] | None

ENVIRONMENT_PREFIX = "OTEL_NETMON_"

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS: dict[object, Kind] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    tuple[str, ...]: "list",
    dict[str, str]: "mapping",
}


class Invalid(Exception):
    """A value that its key cannot take; the message is a sentence without place and key."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key of the configuration.

    Attributes:
        name: dotted, as in ``--set`` and print-config.
        annotation: the type with its ``Meta``, what msgspec checks.
        minimum, maximum: the accepted range, both ends included; infinite for what is not a number.
        check: see ``config.model``; None where the type says all.
    """

    name: str
    kind: Kind
    optional: bool
    annotation: Any
    default: Value
    description: str
    minimum: float
    maximum: float
    choices: tuple[str, ...]
    secret: bool
    fold_case: bool
    check: Callable[..., str | None] | None

    @property
    def variable(self) -> str:
        """The environment variable of this key."""
        return ENVIRONMENT_PREFIX + self.name.replace(".", "_").upper()

    def expectation(self) -> str:
        """What a value of this key looks like, for error messages and the documentation."""
        match self.kind:
            case "boolean":
                text = "true or false"
            case "integer" | "number":
                text = "an integer" if self.kind == "integer" else "a number"
                text += f" from {self.minimum:.10g} to {self.maximum:.10g}"
            case "choice":
                text = "one of " + ", ".join(self.choices)
            case "list":
                text = "a list of text"
            case "mapping":
                text = "a mapping of names to text"
            case "text":
                text = "text"
        return f"{text}, or null" if self.optional else text

    def parse(self, text: str) -> Value:
        """Read a text (a plain YAML scalar, ``--set``, an environment variable) by the type of this key.

        Lists are ``a,b``, mappings ``a=1,b=2`` with percent-encoding, as OTEL_RESOURCE_ATTRIBUTES has them.

        Raises:
            Invalid: the text is not of this type, or out of range.
        """
        value: Value = text
        if self.optional and text in ("null", "~"):
            return None
        match self.kind:
            case "boolean":
                value = _BOOLEANS.get(text.lower(), text)
            case "integer":
                value = int(text) if _INTEGER.fullmatch(text) else text
            case "number":
                value = float(text) if _NUMBER.fullmatch(text) else text
            case "list":
                value = tuple(item.strip() for item in text.split(",") if item.strip())
            case "mapping":
                value = parse_pairs(text)
            case "text" | "choice":
                pass
        return self.validate(value)

    def validate(self, value: object) -> Value:
        """Check a value of the right Python type against type, range, choices and ``check``.

        Raises:
            Invalid: with the accepted type or range, and the value unless it is a secret.
        """
        if not all(_is_unicode(text) for text in _texts(value)):
            raise Invalid("the text is not valid Unicode")
        try:
            converted: Value = msgspec.convert(value, self.annotation, strict=True)
        except msgspec.ValidationError:
            shown = "" if self.secret else f", got {show(value)}"
            raise Invalid(f"expected {self.expectation()}{shown}") from None
        if isinstance(converted, float) and not math.isfinite(converted):
            raise Invalid(f"expected {self.expectation()}, got {converted}")
        if self.check is not None:
            self._run_check(self.check, converted)
        if self.fold_case and isinstance(converted, dict):
            return {name.lower(): item for name, item in converted.items()}
        return converted

    def _run_check(self, check: Callable[..., str | None], value: Value) -> None:
        faults: Iterable[str | None]
        if isinstance(value, dict):
            faults = (check(name, item) for name, item in value.items())
        elif isinstance(value, tuple):
            faults = (check(item) for item in value)
        else:
            faults = () if value is None else (check(value),)
        for fault in faults:
            if fault is not None:
                raise Invalid(fault)


def show(value: object) -> str:
    """A value for an error message: on one line, at most 60 characters, in YAML's words."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_pairs(text: str) -> dict[str, str]:
    """Read ``name=value,name=value`` with percent-encoded values.

    This is W3C baggage without properties, the OpenTelemetry specification's form of OTEL_RESOURCE_ATTRIBUTES and
    OTEL_EXPORTER_OTLP_HEADERS.

    Raises:
        Invalid: a pair without ``=`` or with a bad percent-encoding. The message never shows a value: it may be a secret.
    """
    pairs: dict[str, str] = {}
    for position, item in enumerate((part for part in text.split(",") if part.strip()), 1):
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise Invalid(f"expected name=value,name=value; pair {position} is not name=value")
        pairs[_unquote(name.strip(), position)] = _unquote(value.strip(), position)
    return pairs


def _unquote(text: str, position: int) -> str:
    if "%" not in text:
        return text
    encoded = text.encode("utf-8", "surrogateescape")
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), encoded)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid(f"the percent-encoding of pair {position} is not UTF-8") from None


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, tuple | list):
        return value
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return ()


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _walk(section: type[Section], prefix: str) -> Iterable[tuple[str, Key | None]]:
    hints = typing.get_type_hints(section, include_extras=True)
    defaults = section()
    for field in msgspec.structs.fields(section):
        name, annotation = prefix + field.name, hints[field.name]
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield name, None
            yield from _walk(annotation, name + ".")
        else:
            yield name, _key(name, annotation, getattr(defaults, field.name))


def _key(name: str, annotation: Any, default: Value) -> Key:
    inner, meta = typing.get_args(annotation)
    optional = isinstance(inner, types.UnionType)
    if optional:
        (inner,) = (member for member in typing.get_args(inner) if member is not type(None))
    choices = typing.get_args(inner) if typing.get_origin(inner) is Literal else ()
    extra = meta.extra or {}
    return Key(
        name=name,
        kind="choice" if choices else _KINDS[inner],
        optional=optional,
        annotation=annotation,
        default=default,
        description=meta.description,
        minimum=meta.ge if meta.ge is not None else -math.inf,
        maximum=meta.le if meta.le is not None else math.inf,
        choices=choices,
        secret=extra.get("secret", False),
        fold_case=extra.get("fold_case", False),
        check=extra.get("check"),
    )


_TREE = tuple(_walk(Config, ""))
KEYS: dict[str, Key] = {name: key for name, key in _TREE if key is not None}
"""Every key by its dotted name, in the order of the model."""
SECTIONS: frozenset[str] = frozenset(name for name, key in _TREE if key is None)
"""The dotted names of all sections."""


def resolve(name: str) -> tuple[Key, str | None] | None:
    """The key of a dotted name; for ``otlp.headers.NAME`` the mapping's key and ``NAME``, which may hold dots itself."""
    if name in KEYS:
        return KEYS[name], None
    for key in KEYS.values():
        if key.kind == "mapping" and name.startswith(key.name + ".") and len(name) > len(key.name) + 1:
            return key, name[len(key.name) + 1 :]
    return None


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a mistyped name most likely meant, or None when nothing is close."""
    import difflib  # only when there is an error to explain

    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(name: str) -> str:
    """For a dotted name that is not in the model: the end of an error message that helps to find the right one, or nothing.

    Looked for in this order: a similar name in the same section, the same name in another section, a similar dotted name.
    """
    if name in SECTIONS:
        return "; it is a section, set one of its keys"
    parent, _, last = name.rpartition(".")
    known = [*KEYS, *SECTIONS]
    siblings = [item for item in known if item.rpartition(".")[0] == parent]
    similar = nearest(last, [item.rpartition(".")[2] for item in siblings])
    if similar is not None:
        return f"; did you mean {parent}.{similar}?" if parent else f"; did you mean {similar}?"
    elsewhere = next((item for item in known if item.rpartition(".")[2] == last), None) or nearest(name, KEYS)
    if elsewhere is not None:
        return f"; did you mean {elsewhere}?"
    return f"; {parent} has {', '.join(item.rpartition('.')[2] for item in siblings)}" if parent and siblings else ""
