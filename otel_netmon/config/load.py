"""Build the configuration from its sources and say where each value came from.

Precedence, the strongest first: an explicit key (``--set``, then the file), a flag of the command line, the environment, the default.
A deployment's file is therefore the truth about a machine, and flags and environment fill in what it leaves open. A flag that an
explicit key overrides is warned about, never silently dropped. Mappings (headers, resource attributes) merge entry by entry, the
destinations of OTLP key by key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from otel_netmon.config import checks, environment
from otel_netmon.config.environment_own import CONFIG_FILE_VARIABLE
from otel_netmon.config.keys import GROUPS, KEYS, find, resolve, suggest
from otel_netmon.config.model import SIGNALS, Config, Receiver, SignalName
from otel_netmon.config.origins import DEFAULT, STRENGTH, Origin, Values
from otel_netmon.config.values import ENVIRONMENT_PREFIX, Invalid, Value, show
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
    chosen = file or environ.get(CONFIG_FILE_VARIABLE)
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
    file_values, problems = _read_file(path, environ) if path is not None else ({}, [])
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
    if "--otlp-endpoint" in flags:
        _send_metrics(merged)
    for receiver in _receivers(merged):
        _prefer_endpoint(merged, receiver, warnings)
    problems = problems or _contradictions(merged)
    if problems:
        raise _error(problems)
    config = _build(merged)
    problems = _same_twice(config, merged)
    if problems:
        raise _error(problems)
    warnings += _nothing_sent(config)
    return Loaded(config, {name: origin for name, (_, origin) in merged.items()}, tuple(warnings), path)


def _read_file(path: str, environ: Mapping[str, str]) -> tuple[Values, list[str]]:
    from otel_netmon.config.source import read_file  # with PyYAML, 1 MB, for a file only

    return read_file(path, environ)


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


def _receivers(merged: Values) -> list[str]:
    """The sections that describe a receiver: ``otlp`` and ``otlp.destinations.NAME``."""
    group = GROUPS["otlp.destinations"]
    return ["otlp", *(f"{group.name}.{name}" for name in group.members(merged))]


def _send_metrics(merged: Values) -> None:
    """A receiver that a flag names gets metrics, also where OTEL_METRICS_EXPORTER takes them out: a flag is stronger."""
    signals, origin = merged.get("otlp.signals", (SIGNALS, DEFAULT))
    chosen = origin.kind == "environment" and not origin.source.startswith(ENVIRONMENT_PREFIX)
    if chosen and isinstance(signals, tuple) and "metrics" not in signals:
        merged["otlp.signals"] = (("metrics", *signals), Origin("flag", "--otlp-endpoint"))


def _prefer_endpoint(merged: Values, receiver: str, warnings: list[str]) -> None:
    """Drop a signal's endpoint where the general one comes from a stronger source: a flag must not lose to a variable."""
    if f"{receiver}.endpoint" not in merged:
        return
    general = merged[f"{receiver}.endpoint"][1]
    for signal in SIGNALS:
        special = merged.get(f"{receiver}.{signal}_endpoint", (None, general))[1]
        if STRENGTH[general.kind] > STRENGTH[special.kind]:
            del merged[f"{receiver}.{signal}_endpoint"]
            warnings.append(f"{_place(special)} has no effect: {_place(general)} sets {receiver}.endpoint")


def _contradictions(merged: Values) -> list[str]:
    """Problems between keys, told at the place of the key that is there."""
    problems: list[str] = []
    for group in GROUPS.values():
        members = group.members(merged)
        if len(members) > group.max_members:
            problems.append(f"{group.name}: there are {len(members)}, at most {group.max_members} are possible")
        for member in members:
            for key in group.keys_of(member):
                if key.required and key.name not in merged:
                    start = f"{group.name}.{member}."
                    there = [origin for name, (_, origin) in merged.items() if name.startswith(start)]
                    place = max(there, key=lambda origin: STRENGTH[origin.kind])
                    problems.append(f"{_place(place)}: {start[:-1]}: {key.name} is missing")
    for receiver in _receivers(merged):
        problems += _receiver_contradictions(merged, receiver)
    return problems


def _receiver_contradictions(merged: Values, receiver: str) -> list[str]:
    def get(part: str) -> tuple[Value, Origin]:
        name = f"{receiver}.{part}"
        key = find(name)
        return merged.get(name, (key.default if key is not None else None, DEFAULT))

    problems: list[str] = []
    for one, other in (("client_certificate", "client_key"), ("client_key", "client_certificate")):
        if get(one)[0] is not None and get(other)[0] is None:
            problems.append(f"{_place(get(one)[1])}: {receiver}.{one} needs {receiver}.{other} too")
    if get("protocol")[0] == "http/protobuf":
        for part in ("endpoint", *(f"{signal}_endpoint" for signal in SIGNALS)):
            value, origin = get(part)
            if isinstance(value, str) and not checks.has_scheme(value):
                problems.append(
                    f"{_place(origin)}: {receiver}.{part}: {checks.mask_userinfo(value)!r} has no http:// or https://, "
                    f"which {receiver}.protocol http/protobuf needs"
                )
    return problems


def _same_twice(config: Config, merged: Values) -> list[str]:
    """A receiver that gets a signal twice counts everything double.

    One address may stand twice where the headers or the client's certificate tell two tenants apart.
    """
    problems: list[str] = []
    seen: dict[tuple[object, ...], str] = {}
    for name, receiver in config.otlp.receivers().items():
        section = "otlp" if name == checks.FIRST_DESTINATION else f"otlp.destinations.{name}"
        for signal in (signal for signal in SIGNALS if signal in receiver.signals):
            first = seen.setdefault(_identity(receiver, signal), section)
            if first == section:
                continue
            own = f"{section}.{signal}_endpoint"
            _, origin = merged[own if own in merged else f"{section}.endpoint"]
            problems.append(
                f"{_place(origin)}: {section}: {first} sends {signal} to "
                f"{checks.mask_userinfo(receiver.target(signal))} already; name another endpoint or other signals"
            )
            break
    return problems


def _identity(receiver: Receiver, signal: SignalName) -> tuple[object, ...]:
    """Who gets a signal: two receivers with the same identity are one."""
    scheme, user, host, port, path = checks.endpoint_parts(receiver.target(signal))
    if receiver.protocol == "grpc":  # the method names the signal, not the address
        scheme, path = "", signal
    return (scheme, user, host, port, path, tuple(sorted(receiver.headers.items())), receiver.client_certificate)


def _nothing_sent(config: Config) -> list[str]:
    """Warnings about exporters that are on and have nothing to do, or that are all off."""
    warnings: list[str] = []
    if config.otlp.enabled:
        empty = (name for name, destination in config.otlp.destinations.items() if not destination.signals)
        warnings += [f"otlp.destinations.{name} gets nothing: its signals are empty" for name in sorted(empty)]
    if not config.otlp.receivers() and not config.prometheus.enabled:
        off = "otlp.signals is empty and" if config.otlp.enabled else "otlp.enabled and"
        both = "is false" if config.otlp.enabled else "are both false"
        warnings.append(f"nothing will be exported: {off} prometheus.enabled {both}")
    return warnings


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
