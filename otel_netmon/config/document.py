"""docs/configuration.md, generated from the model: ``python -m otel_netmon.config.document > docs/configuration.md``."""

from __future__ import annotations

import sys

from otel_netmon.config.environment import VARIABLES
from otel_netmon.config.keys import KEYS, Key
from otel_netmon.config.load import DEFAULT_FILE
from otel_netmon.config.origins import scalar

_INTRODUCTION = f"""# Configuration

<!-- Generated: python -m otel_netmon.config.document > docs/configuration.md. A test compares this page with the model. -->

Every key has a default: an empty file is a valid configuration. `otel-netmon check` validates, `otel-netmon print-config` prints
the configuration in effect with the origin of each value, `otel-netmon schema` prints a JSON Schema for editors.

## Where values come from

The strongest first:

1. `--set KEY=VALUE`, an explicit key on the command line; a later one beats an earlier one
2. the file, an explicit key: `--config FILE`, else `OTEL_NETMON_CONFIG`, else `{DEFAULT_FILE}` if it exists
3. flags: `--interface`, `--prometheus` (turns `prometheus.enabled` on), `--otlp-endpoint` (turns `otlp.enabled` on)
4. the environment: `OTEL_NETMON_*`, then `OTEL_*` of the OpenTelemetry specification
5. the default

A flag that an explicit key overrides is warned about. Headers and resource attributes merge entry by entry.

## The file

YAML, at most 1 MiB. Unknown and repeated keys, wrong types and values out of range are refused, all of them at once, each with
`FILE:LINE:COLUMN:`, and the agent does not start (exit code 78). The type of a key decides how its value is read:
`include: [on, 1]` are two interface names. `null` is a value: it is the default and hides the environment.

`${{env:NAME}}` in a value is replaced by the environment variable, which must be set; `${{env:NAME:-DEFAULT}}` has a default for
unset and empty. `$$` is a dollar sign. Secrets belong there, or into the environment, not into the file.

`--set` and environment variables write a list as `a,b`, a mapping as `name=value,name=value` with percent-encoded values;
`--set otlp.headers.NAME=VALUE` sets one entry as it is.

## Keys
"""

_ENVIRONMENT = """## Environment variables of the OpenTelemetry specification

An empty variable counts as unset. As the specification demands, a number, boolean or choice that cannot be read is ignored with a
warning. Durations are milliseconds, OTEL_EXPORTER_OTLP_TIMEOUT included (the stock Python exporters take that one for seconds).
An unknown `OTEL_NETMON_*` variable is an error, unless it is one that Kubernetes makes for a Service named `otel-netmon`.

| variable | key |
|---|---|
"""

_SPECIAL = (
    ("OTEL_EXPORTER_PROMETHEUS_HOST, OTEL_EXPORTER_PROMETHEUS_PORT", "`prometheus.listen`"),
    ("OTEL_SERVICE_NAME", "`resource.attributes`: `service.name`"),
    ("OTEL_METRICS_EXPORTER", "`otlp.enabled`, `prometheus.enabled`: a list of `otlp`, `prometheus`, `none`"),
    ("OTEL_SDK_DISABLED", "`true`: `otlp.enabled` and `prometheus.enabled` are false"),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "only `cumulative`; another value is warned about"),
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "only `explicit_bucket_histogram`; another value is warned about",
    ),
)


def markdown() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    section = ""
    for key in KEYS.values():
        parent = key.name.rpartition(".")[0]
        if parent != section:
            section = parent
            parts.append(f"\n### {section}\n\n| key | value | default | meaning |\n|---|---|---|---|\n")
        parts.append(_row(key))
    parts += [
        "\nThe environment variable of a key is its name with `_` (or `__`) for each dot: ",
        _example(),
        "\n\n",
        _ENVIRONMENT,
    ]
    parts += [f"| {', '.join(variable.names)} | `{variable.key}` |\n" for variable in VARIABLES]
    parts += [f"| {names} | {meaning} |\n" for names, meaning in _SPECIAL]
    return "".join(parts)


def _row(key: Key) -> str:
    name = key.name.rpartition(".")[2]
    return f"| `{name}` | {key.expectation()} | `{scalar(key.default)}` | {key.description} |\n"


def _example() -> str:
    key = KEYS["export.interval_seconds"]
    return f"`{key.variable}` sets `{key.name}`."


if __name__ == "__main__":
    sys.stdout.write(markdown())
