"""Any valid configuration survives print-config; any text gives a configuration or a ConfigError with places."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import example, given, settings, strategies as st

from otel_netmon.config import checks, environment, source
from otel_netmon.config.keys import KEYS, Invalid, Key
from otel_netmon.config.load import load
from otel_netmon.config.origins import as_mapping, as_yaml
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
    "otlp.headers": st.dictionaries(HEADER_NAMES, HEADER_VALUES, max_size=3),
    "resource.attributes": st.dictionaries(TEXT.filter(lambda name: name.strip()), TEXT, max_size=3),
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
        case "integer":
            return st.integers(int(key.minimum), int(key.maximum))
        case "number":
            return st.floats(key.minimum, key.maximum)
        case "choice":
            return st.sampled_from(key.choices)
        case "text" if key.check in (checks.path, checks.absolute_path):
            return st.none() | PATHS if key.optional else PATHS
    raise AssertionError(f"no strategy for {key.name}")


CONFIGURATIONS = st.fixed_dictionaries({name: values_of(key) for name, key in KEYS.items()})


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
    for name, entry in as_mapping(loaded.config, loaded.origins, show_secrets=True).items():
        if name in wanted:
            expected = tuple(wanted[name]) if isinstance(wanted[name], list) else wanted[name]
            assert entry["value"] == expected
    second.write_text(as_yaml(loaded.config, loaded.origins, show_secrets=True), newline="")
    again = load(str(second), {}, [], {})
    assert again.config == loaded.config
    assert again.warnings == loaded.warnings == _expected_warnings(wanted)


def _expected_warnings(wanted: dict[str, Any]) -> tuple[str, ...]:
    nothing = "nothing will be exported: otlp.enabled and prometheus.enabled are both false"
    return () if wanted["otlp.enabled"] or wanted["prometheus.enabled"] else (nothing,)


VARIABLE_NAMES = st.sampled_from(
    [name for variable in environment.VARIABLES for name in variable.names] + [key.variable for key in KEYS.values()]
)
PIECES = st.sampled_from(
    [
        *("flows", "top_k", "otlp", "headers", "interfaces", "include", "probes", "xdp", "enabled", "resource", "log"),
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
@given(st.sampled_from(list(KEYS)), st.text())
def test_a_text_is_a_value_of_its_key_or_invalid(name: str, text: str) -> None:
    key = KEYS[name]
    try:
        value = key.parse(text)
    except Invalid:
        return
    assert key.validate(value) == value


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(), max_size=3))
def test_any_set_gives_a_configuration_or_a_config_error(sets: list[str]) -> None:
    try:
        load(None, {}, sets, {}, "/nonexistent")
    except ConfigError as error:
        assert error.exit_code == 78
