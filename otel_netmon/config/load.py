"""Build the configuration from its sources and say where each value came from.

Precedence, the strongest first: an explicit key (``--set``, then the file), a flag of the command line, the environment, the default.
A deployment's file is therefore the truth about a machine, and flags and environment fill in what it leaves open. A flag that an
explicit key overrides is warned about, never silently dropped. Mappings (headers, resource attributes) merge entry by entry.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from otel_netmon.config import checks, environment
from otel_netmon.config.keys import KEYS, Invalid, Value, resolve, show, suggest
from otel_netmon.config.model import Config
from otel_netmon.config.origins import DEFAULT, STRENGTH, Origin, Values
from otel_netmon.config.source import read_file
from otel_netmon.errors import ConfigError

DEFAULT_FILE = "/etc/otel-netmon/config.yaml"
MAX_SHOWN_PROBLEMS = 20

FLAG_KEYS: dict[str, tuple[str, str | None]] = {
    "--interface": ("interfaces.include", None),
    "--prometheus": ("prometheus.listen", "prometheus.enabled"),
    "--otlp-endpoint": ("otlp.endpoint", "otlp.enabled"),
}
"""The key each flag sets, and the switch it turns on with it."""


class Loaded(NamedTuple):
    """A configuration with its history.

    Attributes:
        config: the values.
        origins: by dotted key, for mappings by entry; what is not there is a default.
        warnings: sentences about what was ignored or overridden.
        file: the configuration file that was read, or None.
    """

    config: Config
    origins: dict[str, Origin]
    warnings: tuple[str, ...]
    file: str | None


def find_file(file: str | None, environ: Mapping[str, str], default: str = DEFAULT_FILE) -> str | None:
    """The configuration file: ``--config``, else OTEL_NETMON_CONFIG, else the default one if it exists."""
    chosen = file or environ.get(environment.CONFIG_FILE_VARIABLE)
    return chosen or (default if os.path.lexists(default) else None)


def load(
    file: str | None,
    flags: Mapping[str, str | Sequence[str]],
    sets: Sequence[str],
    environ: Mapping[str, str],
    default_file: str = DEFAULT_FILE,
) -> Loaded:
    """Read all sources and check every value.

    Args:
        file: ``--config``, or None to look for one.
        flags: given flags of ``FLAG_KEYS`` with their text (``--interface``: a sequence).
        sets: ``KEY=VALUE`` of every ``--set``, a later one wins.
        environ: the environment.
        default_file: the file that is read when none is named and it exists.

    Raises:
        ConfigError: a value is wrong; the message has one line for each problem, file problems with ``FILE:LINE:COLUMN:``.
    """
    path = find_file(file, environ, default_file)
    file_values, problems = read_file(path, environ) if path is not None else ({}, [])
    set_values, set_problems = _read_sets(sets)
    flag_values, flag_problems = _read_flags(flags)
    found = environment.read(environ)
    problems += [*set_problems, *flag_problems, *found.problems]
    warnings = list(found.warnings)

    explicit = {**file_values, **set_values}
    for name, (value, origin) in flag_values.items():
        if name in explicit and explicit[name][0] != value:
            warnings.append(f"{origin.source} has no effect on {name}: {_place(explicit[name][1])} sets it")
    merged: Values = {**found.values, **flag_values, **explicit}
    _prefer_endpoint(merged, warnings)
    problems = problems or _contradictions(merged)
    if problems:
        raise _error(problems)
    config = _build(merged)
    if not config.otlp.enabled and not config.prometheus.enabled:
        warnings.append("nothing will be exported: otlp.enabled and prometheus.enabled are both false")
    return Loaded(config, {name: origin for name, (_, origin) in merged.items()}, tuple(warnings), path)


def _read_sets(sets: Sequence[str]) -> tuple[Values, list[str]]:
    values: Values = {}
    problems: list[str] = []
    for text in sets:
        name, equals, value_text = text.partition("=")
        origin = Origin("set", f"--set {name}")
        target = resolve(name)
        if not equals:
            problems.append(f"--set {text}: expected KEY=VALUE")
        elif target is None:
            problems.append(f"--set {name}: unknown key {show(name)}{suggest(name)}")
        else:
            key, item = target
            try:
                value = key.parse(value_text) if item is None else key.validate({item: value_text})
            except Invalid as fault:
                problems.append(f"--set {name}: {fault}")
                continue
            _put(values, key.name, value, origin)
    return values, problems


def _read_flags(flags: Mapping[str, str | Sequence[str]]) -> tuple[Values, list[str]]:
    values: Values = {}
    problems: list[str] = []
    for flag, given in flags.items():
        name, switch = FLAG_KEYS[flag]
        try:
            values[name] = (
                KEYS[name].validate(given if isinstance(given, str) else tuple(given)),
                Origin("flag", flag),
            )
        except Invalid as fault:
            problems.append(f"{flag}: {fault}")
        if switch is not None:
            values[switch] = (True, Origin("flag", flag))
    return values, problems


def _put(values: Values, name: str, value: Value, origin: Origin) -> None:
    if isinstance(value, dict):
        for item, text in value.items():
            values[f"{name}.{item}"] = (text, origin)
    else:
        values[name] = (value, origin)


def _prefer_endpoint(merged: Values, warnings: list[str]) -> None:
    """Drop ``otlp.metrics_endpoint`` where ``otlp.endpoint`` comes from a stronger source: a flag must not lose to a variable."""
    if "otlp.endpoint" not in merged or "otlp.metrics_endpoint" not in merged:
        return
    general, special = merged["otlp.endpoint"][1], merged["otlp.metrics_endpoint"][1]
    if STRENGTH[general.kind] > STRENGTH[special.kind]:
        del merged["otlp.metrics_endpoint"]
        warnings.append(f"{_place(special)} has no effect: {_place(general)} sets otlp.endpoint")


def _contradictions(merged: Values) -> list[str]:
    """Problems between keys, told at the place of the key that is there."""

    def get(name: str) -> tuple[Value, Origin]:
        return merged.get(name, (KEYS[name].default, DEFAULT))

    problems: list[str] = []
    for one, other in (("otlp.client_certificate", "otlp.client_key"), ("otlp.client_key", "otlp.client_certificate")):
        if get(one)[0] is not None and get(other)[0] is None:
            problems.append(f"{_place(get(one)[1])}: {one} needs {other} too")
    if get("otlp.protocol")[0] == "http/protobuf":
        for name in ("otlp.endpoint", "otlp.metrics_endpoint"):
            value, origin = get(name)
            if isinstance(value, str) and not checks.has_scheme(value):
                problems.append(
                    f"{_place(origin)}: {name}: {checks.mask_userinfo(value)!r} has no http:// or https://, "
                    "which otlp.protocol http/protobuf needs"
                )
    return problems


def _place(origin: Origin) -> str:
    return f"environment variable {origin.source}" if origin.kind == "environment" else origin.source


def _build(merged: Values) -> Config:
    tree: dict[str, Any] = {}
    for name, (value, _) in merged.items():
        target = resolve(name)
        if target is None:
            raise AssertionError(f"a source gave the unknown key {name}")
        key, item = target
        *sections, leaf = key.name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        if item is None:
            node[leaf] = value
        else:
            node.setdefault(leaf, {})[item] = value
    return msgspec.convert(tree, Config)


def _error(problems: list[str]) -> ConfigError:
    shown = problems[:MAX_SHOWN_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"{len(problems) - len(shown)} further problems are not shown")
    return ConfigError("\n".join(shown))
