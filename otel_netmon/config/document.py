"""docs/configuration.md, generated from the model: ``python -m otel_netmon.config.document > docs/configuration.md``."""

from __future__ import annotations

import sys

from otel_netmon.config.environment import VARIABLES
from otel_netmon.config.keys import KEYS, ORDER, Group
from otel_netmon.config.load import DEFAULT_FILE
from otel_netmon.config.origins import scalar
from otel_netmon.config.values import Key

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

A flag that an explicit key overrides is warned about. Headers and resource attributes merge entry by entry, destinations key by key.

## The file

YAML, at most 1 MiB. Unknown and repeated keys, wrong types and values out of range are refused, all of them at once, each with
`FILE:LINE:COLUMN:`, and the agent does not start (exit code 78). The type of a key decides how its value is read:
`include: [on, 1]` are two interface names. `null` is a value: it is the default and hides the environment.

`${{env:NAME}}` in a value is replaced by the environment variable, which must be set; `${{env:NAME:-DEFAULT}}` has a default for
unset and empty. `$$` is a dollar sign. Secrets belong there, or into the environment, not into the file.

`--set` and environment variables write a list as `a,b`, a mapping as `name=value,name=value` with percent-encoded values;
`--set otlp.headers.NAME=VALUE` sets one entry as it is.

## Several receivers

The keys of `otlp` describe one receiver. Each entry of `otlp.destinations` is a further one, with its own queue, spool and state; it
gets everything that its `signals` name, whatever becomes of the others. It takes nothing over from `otlp`: what is not set has the
default of the table below.

```yaml
otlp:
  endpoint: https://gateway.example:4318
  destinations:
    backup:
      endpoint: https://backend.example
      headers: {{api-key: "${{env:BACKUP_KEY}}"}}
      signals: [metrics]
      temporality: delta
```

`--set otlp.destinations.backup.endpoint=URL` sets the same key, and so does `OTEL_NETMON_OTLP_DESTINATIONS_BACKUP_ENDPOINT`. In a
variable without double underscores a name is one word; `OTEL_NETMON_OTLP__DESTINATIONS__BACK_UP__ENDPOINT` is that of `back_up`. A
name with `-` has no variable: use the file or `--set`. Two receivers may have one address only where their headers, users or client
certificates differ; otherwise everything would be counted twice there, and that is an error.

## Keys
"""

_ENVIRONMENT = """## Environment variables of the OpenTelemetry specification

An empty variable counts as unset. They describe the receiver of `otlp`, never a destination. All signals of a receiver share its
protocol, headers, certificates, timeout and compression: those of `OTEL_EXPORTER_OTLP_METRICS_*` count for traces and logs too, and
`OTEL_EXPORTER_OTLP_TRACES_*` and `OTEL_EXPORTER_OTLP_LOGS_*` that say something else are ignored with a warning, except for their
endpoints. As the specification demands, a number, boolean or choice that cannot be read is ignored with a
warning. Durations are milliseconds, OTEL_EXPORTER_OTLP_TIMEOUT included (the stock Python exporters take that one for seconds).
An unknown `OTEL_NETMON_*` variable is an error, unless it is one that Kubernetes makes for a Service named `otel-netmon`.

| variable | key |
|---|---|
"""

_SPECIAL = (
    ("OTEL_EXPORTER_PROMETHEUS_HOST, OTEL_EXPORTER_PROMETHEUS_PORT", "`prometheus.listen`"),
    ("OTEL_SERVICE_NAME", "`resource.attributes`: `service.name`"),
    (
        "OTEL_METRICS_EXPORTER",
        "`otlp.enabled`, `otlp.signals`, `prometheus.enabled`: a list of `otlp`, `prometheus`, `none`; no `otlp`, no metrics",
    ),
    ("OTEL_TRACES_EXPORTER, OTEL_LOGS_EXPORTER", "`otlp.signals`: without the signal unless the list has `otlp`"),
    ("OTEL_SDK_DISABLED", "`true`: `otlp.enabled` and `prometheus.enabled` are false"),
)


def markdown() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    section = ""
    for _, item in ORDER:
        keys = item.keys.values() if isinstance(item, Group) else () if item is None else (item,)
        for key in keys:
            parent = key.name.rpartition(".")[0]
            if parent != section:
                section = parent
                about = f"{item.description}\n\n" if isinstance(item, Group) else ""
                parts.append(f"\n### {section}\n\n{about}| key | value | default | meaning |\n|---|---|---|---|\n")
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
    default = "required" if key.required else f"`{scalar(key.default)}`"
    return f"| `{name}` | {key.expectation()} | {default} | {key.description} |\n"


def _example() -> str:
    key = KEYS["export.interval_seconds"]
    return f"`{key.variable}` sets `{key.name}`."


if __name__ == "__main__":
    sys.stdout.write(markdown())
