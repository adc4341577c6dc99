"""Any valid configuration survives print-config; any text gives a configuration or a ConfigError with places."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import example, given, settings, strategies as st

from otel_netmon.config import checks, environment, source
from otel_netmon.config.keys import GROUPS, KEYS
from otel_netmon.config.load import load
from otel_netmon.config.origins import as_mapping, as_yaml
from otel_netmon.config.values import Invalid, Key
from otel_netmon.errors import ConfigError

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.from_regex(r"[A-Za-z0-9_.$*?-]{1,15}", fullmatch=True)
HEADER_NAMES = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
HEADER_VALUES = st.from_regex(r"[\x20-\x7e]{0,12}", fullmatch=True).filter(lambda text: text != "[REDACTED]")
PATHS = TEXT.map(lambda text: "/" + text.replace("\0", ""))
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "interfaces.include": st.lists(NAMES, max_size=4),
    "interfaces.exclude": st.lists(NAMES, max_size=4),
    "interfaces.namespaces": st.lists(PATHS, max_size=3),
    "otlp.endpoint": st.sampled_from([None, "http://c:4318", "https://u:$p@[::1]/x$$"]),
    "otlp.metrics_endpoint": st.sampled_from([None, "http://c:4318/v1/metrics"]),
    "otlp.traces_endpoint": st.sampled_from([None, "https://t/$x"]),
    "otlp.logs_endpoint": st.sampled_from([None, "https://[::2]/logs"]),
    "otlp.headers": st.dictionaries(HEADER_NAMES, HEADER_VALUES, max_size=3),
    "otlp.proxy": st.sampled_from([None, "http://p:3128", "http://u$:p@[::1]:1/"]),
    "resource.attributes": st.dictionaries(TEXT.filter(lambda name: name.strip()), TEXT, max_size=3),
    "probes.http.routes": st.lists(
        st.from_regex(
            r"([A-Z]{1,7} )?([a-z0-9.-]{1,9})?(/([a-z0-9._~$-]{1,6}|\{[a-z]{1,5}\})){1,4}(/\{[a-z]{1,5}\.\.\.\})?",
            fullmatch=True,
        ),
        max_size=3,
    ),
    "probes.dns.resolver_names": st.lists(
        st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,2}\.[a-z]{2,5}", fullmatch=True), max_size=3
    ),
    "probes.dns.ports": st.lists(st.integers(1, 65535).map(str), max_size=3),
    "prometheus.listen": st.sampled_from(["[::1]:0", "localhost:1", "127.0.0.1:9464"]),
    "otlp.client_certificate": PATHS,  # one needs the other
    "otlp.client_key": PATHS,
}


def values_of(key: Key) -> st.SearchStrategy[Any]:
    if key.name in SPECIAL:
        return SPECIAL[key.name]
    match key.kind:
        case "boolean":
            return st.booleans()
        case "integer" if key.check is checks.power_of_two:
            return st.integers(int(key.minimum).bit_length() - 1, int(key.maximum).bit_length() - 1).map(
                lambda at: 1 << at
            )
        case "integer":
            return st.integers(int(key.minimum), int(key.maximum))
        case "number":
            return st.floats(key.minimum, key.maximum)
        case "choice":
            return st.sampled_from(key.choices)
        case "list" if key.choices:
            return st.lists(st.sampled_from(key.choices), unique=True)
        case "text" if key.check in (checks.path, checks.absolute_path):
            return st.none() | PATHS if key.optional else PATHS
    raise AssertionError(f"no strategy for {key.name}")


def destination(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some keys of one destination; its name is in its endpoint, because two must not be the same."""
    keys = {key.name: key for key in GROUPS["otlp.destinations"].keys_of(name)}
    shared = {
        full: values_of(KEYS[f"otlp.{full.rpartition('.')[2]}"]) for full in keys if not full.endswith("endpoint")
    }
    required = {
        f"otlp.destinations.{name}.endpoint": st.sampled_from([f"http://d-{name}", f"https://u:$@d-{name}:1/x$$"])
    }
    pair = {full for full in shared if full.endswith(("client_certificate", "client_key"))}
    optional = {full: shared[full] for full in shared.keys() - pair}
    optional |= {f"otlp.destinations.{name}.logs_endpoint": st.sampled_from([None, f"https://logs-{name}"])}
    both = st.fixed_dictionaries({full: shared[full] for full in sorted(pair)})
    one = st.fixed_dictionaries(required, optional=optional)
    return st.tuples(one, st.just({}) | both).map(lambda parts: parts[0] | parts[1])


DESTINATION_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,5}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["on", "no", "null", "1", "0x1f", "1e3", "endpoint", "a-b_c"]
)
DESTINATIONS = (
    st.lists(DESTINATION_NAMES.filter(lambda name: name != "default"), unique=True, max_size=3)
    .flatmap(lambda names: st.tuples(*map(destination, names)))
    .map(lambda parts: {name: value for part in parts for name, value in part.items()})
)
CONFIGURATIONS = st.tuples(
    st.fixed_dictionaries({name: values_of(key) for name, key in KEYS.items()}), DESTINATIONS
).map(lambda parts: parts[0] | parts[1])


def escaped(value: Any) -> Any:
    """The value as a file has it: a dollar sign of a text is doubled."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return {name: escaped(item) for name, item in value.items()} if isinstance(value, dict) else value


@settings(max_examples=150, deadline=None)
@given(CONFIGURATIONS)
def test_print_config_is_valid_input_with_the_same_meaning(tmp_path_factory: Any, wanted: dict[str, Any]) -> None:
    directory = tmp_path_factory.getbasetemp()
    first, second = directory / "first.yaml", directory / "second.yaml"
    tree: dict[str, Any] = {}
    for name, value in wanted.items():
        *sections, leaf = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = escaped(value)
    first.write_text(yaml.safe_dump(tree), newline="")
    loaded = load(str(first), {}, [], {})
    shown = as_mapping(loaded.config, loaded.origins, show_secrets=True)
    for name, value in wanted.items():
        for item, text in value.items() if isinstance(value, dict) else ():
            assert shown[f"{name}.{item}"]["value"] == text
        if not isinstance(value, dict) or not value:
            assert shown[name]["value"] == (tuple(value) if isinstance(value, list) else value)
    second.write_text(as_yaml(loaded.config, loaded.origins, show_secrets=True), newline="")
    again = load(str(second), {}, [], {})
    assert again.config == loaded.config
    assert again.warnings == loaded.warnings == _expected_warnings(wanted)


def _expected_warnings(wanted: dict[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    signals = {name: value for name, value in wanted.items() if name.startswith("otlp.") and name.endswith(".signals")}
    empty = sorted(name.removesuffix(".signals") for name, value in signals.items() if not value)
    if wanted["otlp.enabled"]:
        found += [f"{name} gets nothing: its signals are empty" for name in empty if name != "otlp"]
    destinations = sum(name.startswith("otlp.destinations.") and name.endswith(".endpoint") for name in wanted)
    nothing = not wanted["otlp.enabled"] or len(empty) == destinations + 1
    if nothing and not wanted["prometheus.enabled"]:
        off = "otlp.signals is empty and prometheus.enabled is false"
        off = off if wanted["otlp.enabled"] else "otlp.enabled and prometheus.enabled are both false"
        found.append(f"nothing will be exported: {off}")
    return tuple(found)


VARIABLE_NAMES = st.sampled_from(
    [
        *(name for variable in environment.VARIABLES for name in variable.names),
        *(key.variable for key in KEYS.values()),
        *(name for name, _ in environment.EXPORTERS.values()),
        *(key.variable for group in GROUPS.values() for key in group.keys_of("b")),
    ]
)
PIECES = st.sampled_from(
    [
        *(
            "flows",
            "top_k",
            "otlp",
            "headers",
            "destinations",
            "endpoint",
            "interfaces",
            "include",
            "probes",
            "xdp",
            "enabled",
            "resource",
            "log",
        ),
        *(
            ": ",
            ":\n  ",
            "\n",
            "\n  ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "&a ",
            "*a",
            "!!int ",
            "!x ",
            "<<",
            "? ",
            "|\n ",
        ),
        *(
            "'",
            '"',
            "#",
            "%YAML 1.1\n---\n",
            "---\n",
            "${env:A}",
            "${",
            "$$",
            "\t",
            "\r",
            "\x00",
            "\ufeff",
            "\u2028",
            "é",
        ),
        *("null", "1", "1e999", "true", ".inf", "0x10", "1:30", "=", "\\", "\\ud800", "\x85", "\ud800"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join) | st.binary(max_size=60))
@example("\ufeff\ufeff")
@example('log: "\\ud800"')
def test_any_text_gives_values_or_problems_with_a_place(text: str | bytes) -> None:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    _, problems = source.read_text(content, "f", {"A": "x"})
    for problem in problems:
        assert re.match(r"f:[1-9][0-9]*:[1-9][0-9]*: .", problem)
        assert "\n" not in problem


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(VARIABLE_NAMES, st.text()))
def test_any_environment_gives_a_configuration_or_a_config_error(environ: dict[str, str]) -> None:
    try:
        load(None, {}, [], environ, "/nonexistent")
    except ConfigError as error:
        assert all(line for line in str(error).splitlines())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*KEYS.values(), *GROUPS["otlp.destinations"].keys_of("b")]), st.text())
def test_a_text_is_a_value_of_its_key_or_invalid(key: Key, text: str) -> None:
    try:
        value = key.parse(text)
    except Invalid:
        return
    assert key.validate(value) == value


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text() | st.text().map(lambda text: "otlp.destinations." + text), max_size=3))
def test_any_set_gives_a_configuration_or_a_config_error(sets: list[str]) -> None:
    try:
        load(None, {}, sets, {}, "/nonexistent")
    except ConfigError as error:
        assert error.exit_code == 78
