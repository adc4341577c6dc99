"""The environment as configuration values: ``OTEL_*`` as the OpenTelemetry specification says, ``OTEL_NETMON_*`` for every key.

The rules of the specification (configuration/sdk-environment-variables.md, protocol/exporter.md):

- an empty variable counts as unset
- a number, boolean or choice that cannot be read is warned about and ignored; an own variable (``OTEL_NETMON_*``) is an error
- durations are milliseconds. The stock Python exporters read OTEL_EXPORTER_OTLP_TIMEOUT as seconds; this agent follows the
  specification and hands the exporters the value in seconds
- a variable of the metrics signal (``OTEL_EXPORTER_OTLP_METRICS_*``) beats the general one

A variable of the project beats one of the specification. Because every value is read here, with its origin, the process that exports
gives the exporters explicit arguments only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from otel_netmon.config.keys import ENVIRONMENT_PREFIX, KEYS, Invalid, Key, Value, nearest, parse_pairs
from otel_netmon.config.origins import Origin, Values

CONFIG_FILE_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"

# A Kubernetes Service named otel-netmon puts these into every pod of its namespace; they are not configuration.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")

_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
}
_LEVELS |= {"fatal": "error", "critical": "error"}


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


def _milliseconds(key: Key, text: str) -> Value:
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]+)?", text):
        raise Invalid("expected a number of milliseconds")
    try:
        return key.validate(float(text) / 1000)
    except Invalid as fault:
        raise Invalid(f"{text} ms: {fault} seconds") from None


def _boolean(key: Key, text: str) -> Value:
    # The specification: only "true" in any letter case is true, and what is neither true nor false deserves a warning.
    if text.lower() not in ("true", "false"):
        raise Invalid("expected true or false")
    return key.validate(text.lower() == "true")


def _choice(key: Key, text: str) -> Value:
    return key.validate(text.lower())


def _level(key: Key, text: str) -> Value:
    return key.validate(_LEVELS.get(text.lower(), text))


def _text(key: Key, text: str) -> Value:
    return key.validate(text)


class Variable(NamedTuple):
    """A variable of the specification and its key.

    Attributes:
        names: the strongest first.
        read: makes the text a value.
        lenient: ignore what cannot be read, with a warning.
    """

    key: str
    names: tuple[str, ...]
    read: Callable[[Key, str], Value]
    lenient: bool


def _otlp(key: str, name: str, read: Callable[[Key, str], Value], lenient: bool = True) -> Variable:
    return Variable(key, (f"OTEL_EXPORTER_OTLP_METRICS_{name}", f"OTEL_EXPORTER_OTLP_{name}"), read, lenient)


VARIABLES = (
    Variable("otlp.endpoint", ("OTEL_EXPORTER_OTLP_ENDPOINT",), _text, False),
    Variable("otlp.metrics_endpoint", ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",), _text, False),
    _otlp("otlp.protocol", "PROTOCOL", _choice),
    _otlp("otlp.insecure", "INSECURE", _boolean),
    _otlp("otlp.headers", "HEADERS", lambda key, text: key.validate(parse_pairs(text)), lenient=False),
    _otlp("otlp.timeout_seconds", "TIMEOUT", _milliseconds),
    _otlp("otlp.compression", "COMPRESSION", _choice),
    _otlp("otlp.certificate", "CERTIFICATE", _text, lenient=False),
    _otlp("otlp.client_certificate", "CLIENT_CERTIFICATE", _text, lenient=False),
    _otlp("otlp.client_key", "CLIENT_KEY", _text, lenient=False),
    Variable("export.interval_seconds", ("OTEL_METRIC_EXPORT_INTERVAL",), _milliseconds, True),
    Variable("export.timeout_seconds", ("OTEL_METRIC_EXPORT_TIMEOUT",), _milliseconds, True),
    Variable("log.level", ("OTEL_LOG_LEVEL",), _level, True),
    Variable(
        "resource.attributes", ("OTEL_RESOURCE_ATTRIBUTES",), lambda key, text: key.validate(parse_pairs(text)), True
    ),
)

_ONLY = {
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ("cumulative", "every series is cumulative"),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        "explicit_bucket_histogram",
        "histograms have explicit buckets",
    ),
}


def read(environ: Mapping[str, str]) -> Environment:
    """Read every variable that means something to this agent. Pure: ``environ`` is the only input."""
    found = Environment({}, [], [])
    for variable in VARIABLES:
        _read_variable(variable, environ, found)
    _read_prometheus(environ, found)
    _read_switches(environ, found)
    service = environ.get("OTEL_SERVICE_NAME", "")
    if service:
        _keep(found, KEYS["resource.attributes"], {"service.name": service}, "OTEL_SERVICE_NAME")
    for name, (supported, reason) in _ONLY.items():
        value = environ.get(name, "")
        if value and value.lower() != supported:
            found.warnings.append(f"environment variable {name} is ignored: {reason}")
    _read_own(environ, found)
    return found


def _keep(found: Environment, key: Key, value: Value, name: str) -> None:
    origin = Origin("environment", name)
    if isinstance(value, dict):
        for item, text in value.items():
            found.values[f"{key.name}.{item}"] = (text, origin)
    else:
        found.values[key.name] = (value, origin)


def _read_variable(variable: Variable, environ: Mapping[str, str], found: Environment) -> None:
    key = KEYS[variable.key]
    for name in variable.names:
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            _keep(found, key, variable.read(key, text), name)
        except Invalid as fault:
            if not variable.lenient:
                found.problems.append(f"environment variable {name}: {fault}")
                return
            found.warnings.append(f"environment variable {name} is ignored: {fault}")
        else:
            return


def _read_prometheus(environ: Mapping[str, str], found: Environment) -> None:
    """OTEL_EXPORTER_PROMETHEUS_HOST and _PORT; what only one of them says keeps our default for the other."""
    host, port = (environ.get(f"OTEL_EXPORTER_PROMETHEUS_{part}", "").strip() for part in ("HOST", "PORT"))
    if port and not (re.fullmatch("[0-9]{1,5}", port) and int(port) <= 65535):
        found.warnings.append("environment variable OTEL_EXPORTER_PROMETHEUS_PORT is ignored: expected a port number")
        port = ""
    if not host and not port:
        return
    names = [f"OTEL_EXPORTER_PROMETHEUS_{part}" for part, value in (("HOST", host), ("PORT", port)) if value]
    key = KEYS["prometheus.listen"]
    default_host, _, default_port = str(key.default).rpartition(":")
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        value = key.validate(f"{bracketed or default_host}:{port or default_port}")
    except Invalid as fault:
        found.problems.append(f"environment variable {' and '.join(names)}: {fault}")
        return
    _keep(found, key, value, " and ".join(names))


def _read_switches(environ: Mapping[str, str], found: Environment) -> None:
    """OTEL_METRICS_EXPORTER (a list of exporters) and OTEL_SDK_DISABLED (nothing is exported), the latter stronger."""
    text = environ.get("OTEL_METRICS_EXPORTER", "")
    wanted = [item.strip().lower() for item in text.split(",") if item.strip()]
    known = [item for item in wanted if item in ("otlp", "prometheus", "none")]
    for item in wanted:
        if item not in known:
            found.warnings.append(
                f"environment variable OTEL_METRICS_EXPORTER: {item!r} is ignored: this agent has otlp, prometheus and none"
            )
    if known:
        for exporter in ("otlp", "prometheus"):
            _keep(found, KEYS[f"{exporter}.enabled"], exporter in known, "OTEL_METRICS_EXPORTER")
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower()
    if disabled == "true":
        for exporter in ("otlp", "prometheus"):
            _keep(found, KEYS[f"{exporter}.enabled"], False, "OTEL_SDK_DISABLED")
    elif disabled not in ("", "false"):
        found.warnings.append("environment variable OTEL_SDK_DISABLED counts as false: expected true or false")


def _read_own(environ: Mapping[str, str], found: Environment) -> None:
    """``OTEL_NETMON_<KEY>``; a dot of the key is ``_`` or ``__``. An unknown name is an error."""
    by_variable = {key.variable: key for key in KEYS.values()}
    names: dict[str, str] = {}
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name == CONFIG_FILE_VARIABLE or not environ[name].strip():
            continue
        key = by_variable.get(re.sub("_+", "_", name))
        if key is None:
            if not _SERVICE_LINK.fullmatch(name[len(ENVIRONMENT_PREFIX) :]):
                meant = nearest(name, (*by_variable, CONFIG_FILE_VARIABLE))
                hint = f"; did you mean {meant}?" if meant else ""
                found.problems.append(f"environment variable {name}: there is no such configuration key{hint}")
            continue
        if key.name in names:
            found.problems.append(f"environment variable {name}: {key.name} is already set by {names[key.name]}")
            continue
        names[key.name] = name
        try:
            _keep(found, key, key.parse(environ[name].strip()), name)
        except Invalid as fault:
            found.problems.append(f"environment variable {name}: {fault}")
