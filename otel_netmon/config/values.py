"""One key of the configuration: its type, range, default and meaning, and how a text becomes its value.

A key's type decides how a text is read, never the text itself: ``on`` is a name in ``interfaces.include`` and true in
``probes.xdp.enabled``. The same rules serve YAML, ``--set`` and environment variables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

Kind = Literal["boolean", "integer", "number", "text", "choice", "list", "mapping"]
Value = bool | int | float | str | tuple[str, ...] | dict[str, str] | None

ENVIRONMENT_PREFIX = "OTEL_NETMON_"

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Invalid(Exception):
    """A value that its key cannot take; the message is a sentence without place and key."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key of the configuration.

    Attributes:
        name: dotted, as in ``--set`` and print-config.
        annotation: the type with its ``Meta``, what msgspec checks.
        default: None for a required key, too.
        minimum, maximum: the accepted range, both ends included; infinite for what is not a number.
        choices: what a choice, or each item of a list, can be; empty where that is open.
        check: see ``config.section``; None where the type says all.
    """

    name: str
    kind: Kind
    optional: bool
    annotation: Any
    default: Value
    required: bool
    description: str
    minimum: float
    maximum: float
    choices: tuple[str, ...]
    secret: bool
    fold_case: bool
    check: Callable[..., str | None] | None

    @property
    def variable(self) -> str:
        """The environment variable of this key. In a group only names without ``_`` and ``-`` have this one."""
        return ENVIRONMENT_PREFIX + self.name.replace(".", "_").upper()

    def expectation(self) -> str:
        """What a value of this key looks like, for error messages and the documentation."""
        match self.kind:
            case "boolean":
                text = "true or false"
            case "integer" | "number":
                text = "an integer" if self.kind == "integer" else "a number"
                text += f" from {self.minimum:.15g} to {self.maximum:.15g}"
            case "choice":
                text = "one of " + ", ".join(self.choices)
            case "list":
                text = "a list of " + (", ".join(self.choices) or "text")
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
            shown = "" if self.secret else f", got {show(self._culprit(value))}"
            raise Invalid(f"expected {self.expectation()}{shown}") from None
        if isinstance(converted, float) and not math.isfinite(converted):
            raise Invalid(f"expected {self.expectation()}, got {converted}")
        if self.check is not None:
            self._run_check(self.check, converted)
        if self.fold_case and isinstance(converted, dict):
            return {name.lower(): item for name, item in converted.items()}
        return converted

    def _culprit(self, value: object) -> object:
        """Of a list with choices the first item that is none of them, else the value itself."""
        items = value if self.choices and isinstance(value, tuple | list) else ()
        return next((item for item in items if item not in self.choices), value)

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
