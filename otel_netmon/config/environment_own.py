"""``OTEL_NETMON_<KEY>``: every key of the configuration as an environment variable.

Destinations have own variables only: ``OTEL_NETMON_OTLP_DESTINATIONS_BACKUP_ENDPOINT`` is ``otlp.destinations.backup.endpoint``. Without
double underscores a destination's name is one word; ``OTEL_NETMON_OTLP__DESTINATIONS__BACK_UP__ENDPOINT`` is that of ``back_up``. A
name with ``-`` has no variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from otel_netmon.config.keys import GROUPS, KEYS, Group, nearest
from otel_netmon.config.origins import Origin, Values
from otel_netmon.config.values import ENVIRONMENT_PREFIX, Invalid, Key, Value

CONFIG_FILE_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"

# A Kubernetes Service named otel-netmon puts these into every pod of its namespace; they are not configuration.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


class Environment(NamedTuple):
    """What the environment sets.

    Attributes:
        values: by dotted key.
        problems: wrong own variables and unreadable text, each an error.
        warnings: variables of the specification that are ignored, with the reason.
    """

    values: Values
    problems: list[str]
    warnings: list[str]


def keep(found: Environment, key: Key, value: Value, name: str) -> None:
    """Add what a variable sets, a mapping entry by entry."""
    origin = Origin("environment", name)
    if isinstance(value, dict):
        for item, text in value.items():
            found.values[f"{key.name}.{item}"] = (text, origin)
    else:
        found.values[key.name] = (value, origin)


def read(environ: Mapping[str, str], found: Environment) -> None:
    """``OTEL_NETMON_<KEY>``; a dot of the key is ``_`` or ``__``. An unknown name is an error."""
    by_variable = {key.variable: key for key in KEYS.values()}
    names: dict[str, str] = {}
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name == CONFIG_FILE_VARIABLE or not environ[name].strip():
            continue
        key = by_variable.get(re.sub("_+", "_", name)) or _group_key(name)
        if key is None:
            if not _SERVICE_LINK.fullmatch(name[len(ENVIRONMENT_PREFIX) :]):
                found.problems.append(
                    f"environment variable {name}: there is no such configuration key{_hint(name, by_variable)}"
                )
            continue
        if key.name in names:
            found.problems.append(f"environment variable {name}: {key.name} is already set by {names[key.name]}")
            continue
        names[key.name] = name
        try:
            keep(found, key, key.parse(environ[name].strip()), name)
        except Invalid as fault:
            found.problems.append(f"environment variable {name}: {fault}")


def _start(group: Group) -> str:
    """A pattern for the beginning of the variables of a group, up to the underscores before the chosen name."""
    return ENVIRONMENT_PREFIX + "__?".join(group.name.upper().split("."))


def _group_key(name: str) -> Key | None:
    """The key of a group that an own variable names. Double underscores around the chosen name allow single ones in it."""
    for group in GROUPS.values():
        double = re.fullmatch(_start(group) + r"__(?P<member>[A-Z0-9]+(?:_[A-Z0-9]+)*)__(?P<key>[A-Z0-9_]+)", name)
        single = re.fullmatch(_start(group) + r"__?(?P<member>[A-Z0-9]+)__?(?P<key>[A-Z0-9_]+)", name)
        for match in (double, single):
            key = group.key(match["member"].lower(), match["key"].lower()) if match is not None else None
            if key is not None:
                return key
    return None


def _hint(name: str, by_variable: Mapping[str, Key]) -> str:
    for group in GROUPS.values():
        if re.match(_start(group) + "_", name):
            start = f"{ENVIRONMENT_PREFIX}{group.name.replace('.', '__').upper()}"
            return f"; write {start}__NAME__KEY, where NAME may hold single underscores, KEY is one of {', '.join(group.keys)}"
    meant = nearest(name, (*by_variable, CONFIG_FILE_VARIABLE))
    return f"; did you mean {meant}?" if meant else ""
