"""The configuration as text with its origins, and the pages made from the model."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import yaml

from otel_netmon.config import document, origins
from otel_netmon.config.keys import GROUPS, KEYS
from otel_netmon.config.model import Config, Destination, Interfaces, Otlp
from otel_netmon.config.origins import Origin

CONFIG = Config(
    interfaces=Interfaces(include=("on", "$x")),
    otlp=Otlp(endpoint="http://u:hush@c", headers={"b": "hush", "a": "hush"}),
)
ORIGINS = {"otlp.headers.a": Origin("file", "a\nb.yaml:1:2"), "interfaces.include": Origin("flag", "--interface")}


def test_yaml_shows_each_value_with_its_origin_and_no_secret() -> None:
    text = origins.as_yaml(CONFIG, ORIGINS)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:2] == ["interfaces:", 'include: ["on", "$$x"] # flag --interface']
    assert "top_k: 100 # default" in lines
    at = lines.index("headers:")
    assert lines[at + 1 : at + 3] == [
        "a: \"[REDACTED]\" # 'file a\\nb.yaml:1:2'",
        'b: "[REDACTED]" # default',
    ]
    assert "hush" not in text
    assert yaml.safe_load(text)["otlp"]["endpoint"] == "http://[REDACTED]@c"
    assert origins.as_yaml(CONFIG, ORIGINS, show_secrets=True).count("hush") == 3


def test_json_has_value_origin_and_source_of_every_key() -> None:
    document = origins.as_mapping(CONFIG, ORIGINS)
    assert document["interfaces.include"] == {"value": ("on", "$x"), "origin": "flag", "source": "--interface"}
    assert document["flows.top_k"] == {"value": 100, "origin": "default", "source": ""}
    assert document["otlp.headers.a"] == {"value": "[REDACTED]", "origin": "file", "source": "a\nb.yaml:1:2"}
    headers = {"otlp.headers.a", "otlp.headers.b"}
    assert set(document) == (set(KEYS) - {"otlp.headers"}) | headers | {"otlp.destinations"}
    assert document["otlp.destinations"] == {"value": {}, "origin": "default", "source": ""}
    assert "hush" not in json.dumps(document)


def test_the_table_of_keys_is_the_model() -> None:
    def leaves(node: object, prefix: str = "") -> set[str]:
        if not isinstance(node, dict):
            return {prefix}
        if not node:  # an empty mapping of text
            return {prefix}
        return {leaf for name, child in node.items() for leaf in leaves(child, f"{prefix}.{name}".lstrip("."))}

    assert {*KEYS, *GROUPS} == leaves(msgspec.to_builtins(Config()))
    for key in KEYS.values():
        assert key.description.endswith("."), key.name
        assert origins.value_of(Config(), key.name) == key.default == key.validate(key.default)


def test_the_keys_of_a_group_are_its_model() -> None:
    group = GROUPS["otlp.destinations"]
    assert set(group.keys) == set(Destination.__struct_fields__)
    assert [name for name, key in group.keys.items() if key.required] == ["endpoint"]
    config = Config(otlp=Otlp(destinations={"b": Destination(endpoint="http://b")}))
    for key in group.keys_of("b"):
        assert key.description.endswith("."), key.name
        if not key.required:
            assert origins.value_of(config, key.name) == key.default == key.validate(key.default)
            shared = KEYS[f"otlp.{key.name.rpartition('.')[2]}"]
            assert (key.kind, key.default, key.secret) == (shared.kind, shared.default, shared.secret)


def test_destinations_are_shown_by_name_with_origin_and_no_secret() -> None:
    config = Config(
        otlp=Otlp(
            destinations={
                "on": Destination(endpoint="http://u:hush@b", headers={"a": "hush"}),
                "a": Destination(endpoint="http://a", proxy="http://u:hush@p"),
            }
        )
    )
    text = origins.as_yaml(config, {"otlp.destinations.on.endpoint": Origin("file", "f:1:2")})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    at = lines.index("destinations:")
    assert lines[at + 1 : at + 3] == ["a:", 'endpoint: "http://a" # default']
    assert 'proxy: "http://[REDACTED]@p" # default' in lines
    at = lines.index('"on":')
    assert lines[at + 1] == 'endpoint: "http://[REDACTED]@b" # file f:1:2'
    assert 'a: "[REDACTED]" # default' in lines
    assert "hush" not in text
    document = origins.as_mapping(config, {})
    assert document["otlp.destinations.on.headers.a"]["value"] == "[REDACTED]"
    assert "otlp.destinations" not in document
    assert origins.as_yaml(config, {}, show_secrets=True).count("hush") == 3


def test_the_documentation_is_generated() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == document.markdown(), "run: python -m otel_netmon.config.document > docs/configuration.md"
