"""The environment as configuration values: ``OTEL_*`` as the OpenTelemetry specification says, then ``OTEL_NETMON_*``.

The rules of the specification (configuration/sdk-environment-variables.md, protocol/exporter.md):

- an empty variable counts as unset
- a number, boolean or choice that cannot be read is warned about and ignored; an own variable (``OTEL_NETMON_*``) is an error
- durations are milliseconds. The stock Python exporters read OTEL_EXPORTER_OTLP_TIMEOUT as seconds; this agent follows the
  specification and hands the exporters the value in seconds
- a variable of the metrics signal (``OTEL_EXPORTER_OTLP_METRICS_*``) beats the general one. One receiver has one protocol, one set
  of headers and so on for all signals: those of the metrics signal count for traces and logs too, and those of traces and logs
  (``OTEL_EXPORTER_OTLP_TRACES_*``, ``_LOGS_*``) are warned about where they ask for something else. Endpoints are separate

A variable of the project beats one of the specification. Because every value is read here, with its origin, the process that exports
gives the exporters explicit arguments only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from otel_netmon.config import environment_own
from otel_netmon.config.environment_own import Environment, keep
from otel_netmon.config.keys import KEYS
from otel_netmon.config.model import SIGNALS
from otel_netmon.config.values import Invalid, Key, Value, parse_pairs, show

_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
}
_LEVELS |= {"fatal": "error", "critical": "error"}


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


def _aggregation(key: Key, text: str) -> Value:
    names = {"base2_exponential_bucket_histogram": "exponential", "explicit_bucket_histogram": "explicit"}
    if text.lower() not in names:
        raise Invalid(f"expected one of {', '.join(names)}, got {show(text)}")
    return key.validate(names[text.lower()])


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


_METRICS = "OTEL_EXPORTER_OTLP_METRICS_"


def _otlp(key: str, name: str, read: Callable[[Key, str], Value], lenient: bool = True) -> Variable:
    return Variable(key, (f"{_METRICS}{name}", f"OTEL_EXPORTER_OTLP_{name}"), read, lenient)


VARIABLES = (
    Variable("otlp.endpoint", ("OTEL_EXPORTER_OTLP_ENDPOINT",), _text, False),
    *(
        Variable(f"otlp.{each}_endpoint", (f"OTEL_EXPORTER_OTLP_{each.upper()}_ENDPOINT",), _text, False)
        for each in SIGNALS
    ),
    _otlp("otlp.protocol", "PROTOCOL", _choice),
    _otlp("otlp.insecure", "INSECURE", _boolean),
    _otlp("otlp.headers", "HEADERS", lambda key, text: key.validate(parse_pairs(text)), lenient=False),
    _otlp("otlp.timeout_seconds", "TIMEOUT", _milliseconds),
    _otlp("otlp.compression", "COMPRESSION", _choice),
    _otlp("otlp.certificate", "CERTIFICATE", _text, lenient=False),
    _otlp("otlp.client_certificate", "CLIENT_CERTIFICATE", _text, lenient=False),
    _otlp("otlp.client_key", "CLIENT_KEY", _text, lenient=False),
    Variable("otlp.temporality", ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",), _choice, True),
    Variable("otlp.histograms", ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",), _aggregation, True),
    Variable("export.interval_seconds", ("OTEL_METRIC_EXPORT_INTERVAL",), _milliseconds, True),
    Variable("export.timeout_seconds", ("OTEL_METRIC_EXPORT_TIMEOUT",), _milliseconds, True),
    Variable("log.level", ("OTEL_LOG_LEVEL",), _level, True),
    Variable(
        "resource.attributes", ("OTEL_RESOURCE_ATTRIBUTES",), lambda key, text: key.validate(parse_pairs(text)), True
    ),
)

EXPORTERS = {
    "metrics": ("OTEL_METRICS_EXPORTER", ("otlp", "prometheus", "none")),
    "traces": ("OTEL_TRACES_EXPORTER", ("otlp", "none")),
    "logs": ("OTEL_LOGS_EXPORTER", ("otlp", "none")),
}
"""For each signal the variable that lists its exporters, and those that this agent has."""


def read(environ: Mapping[str, str]) -> Environment:
    """Read every variable that means something to this agent. Pure: ``environ`` is the only input."""
    found = Environment({}, [], [])
    for variable in VARIABLES:
        _read_variable(variable, environ, found)
    _read_prometheus(environ, found)
    _read_switches(environ, found)
    service = environ.get("OTEL_SERVICE_NAME", "")
    if service:
        keep(found, KEYS["resource.attributes"], {"service.name": service}, "OTEL_SERVICE_NAME")
    environment_own.read(environ, found)
    _warn_of_shared(environ, found)
    return found


def _read_variable(variable: Variable, environ: Mapping[str, str], found: Environment) -> None:
    key = KEYS[variable.key]
    for name in variable.names:
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            keep(found, key, variable.read(key, text), name)
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
    keep(found, key, value, " and ".join(names))


def _read_switches(environ: Mapping[str, str], found: Environment) -> None:
    """The lists of exporters (a signal without otlp leaves ``otlp.signals``), and OTEL_SDK_DISABLED, the strongest."""
    without: dict[str, str] = {}
    for signal, (name, possible) in EXPORTERS.items():
        wanted = [item.strip().lower() for item in environ.get(name, "").split(",") if item.strip()]
        known = [item for item in wanted if item in possible]
        for item in wanted:
            if item not in known:
                has = f"{', '.join(possible[:-1])} and {possible[-1]}"
                found.warnings.append(
                    f"environment variable {name}: {item!r} is ignored: this agent has {has} for {signal}"
                )
        if known and "prometheus" in possible:
            keep(found, KEYS["prometheus.enabled"], "prometheus" in known, name)
        if known and "otlp" not in known:
            without[signal] = name
        elif known and signal == "metrics":
            keep(found, KEYS["otlp.enabled"], True, name)
    if without:
        signals = tuple(signal for signal in SIGNALS if signal not in without)
        keep(found, KEYS["otlp.signals"], signals, " and ".join(without.values()))
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower()
    if disabled == "true":
        for exporter in ("otlp", "prometheus"):
            keep(found, KEYS[f"{exporter}.enabled"], False, "OTEL_SDK_DISABLED")
    elif disabled not in ("", "false"):
        found.warnings.append("environment variable OTEL_SDK_DISABLED counts as false: expected true or false")


def _warn_of_shared(environ: Mapping[str, str], found: Environment) -> None:
    """Warn where a signal's own variable asks for something that all signals of one receiver share."""
    signals = found.values["otlp.signals"][0] if "otlp.signals" in found.values else SIGNALS
    others = [signal for signal in ("traces", "logs") if isinstance(signals, tuple) and signal in signals]
    for variable in (variable for variable in VARIABLES if len(variable.names) == 2):
        for signal in others:
            name = variable.names[0].replace(_METRICS, f"OTEL_EXPORTER_OTLP_{signal.upper()}_")
            text = environ.get(name, "").strip()
            if text and not _says(variable, text, found):
                found.warnings.append(
                    f"environment variable {name} is ignored: all signals of a receiver share {variable.key}; set "
                    f"{variable.names[1]}, or a receiver of its own by otlp.destinations.NAME with signals: [{signal}]"
                )
    name = f"{_METRICS}HEADERS"
    elsewhere = any(environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip() for signal in SIGNALS)
    if others and elsewhere and environ.get(name, "").strip():
        found.warnings.append(
            f"environment variable {name} counts for {' and '.join(others)} too, whose endpoint may be another; keep the "
            "headers apart by a receiver of its own, otlp.destinations.NAME with its signals"
        )


def _says(variable: Variable, text: str, found: Environment) -> bool:
    """Whether the text means what the environment sets, or the default is."""
    key = KEYS[variable.key]
    try:
        value = variable.read(key, text)
    except Invalid:
        return False
    if isinstance(value, dict):
        start = f"{key.name}."
        return value == {name[len(start) :]: item for name, (item, _) in found.values.items() if name.startswith(start)}
    return value == (found.values[key.name][0] if key.name in found.values else key.default)
