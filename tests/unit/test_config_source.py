"""A configuration file: every problem with its line and column, and none that is not ours to name."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_netmon.config import source
from otel_netmon.config.origins import Origin
from otel_netmon.errors import ConfigError


def problems(text: str | bytes, **environ: str) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    return [line.removeprefix("f:") for line in source.read_text(content, "f", environ)[1]]


def values(text: str, **environ: str) -> dict[str, object]:
    found, faults = source.read_text(text.encode(), "f", environ)
    assert faults == []
    return {name: value for name, (value, _) in found.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flows:\n  topk: 5\n", "2:3: unknown key 'flows.topk'; did you mean flows.top_k?"),
        ("flow: {}\n", "1:1: unknown key 'flow'; did you mean flows?"),
        ("zzzzqqq: 1\n", "1:1: unknown key 'zzzzqqq'"),
        (
            "flows:\n  idle_seconds: 5\n",
            "2:3: unknown key 'flows.idle_seconds'; did you mean probes.flows.idle_seconds?",
        ),
        ("log: {zzzz: 5}\n", "1:7: unknown key 'log.zzzz'; log has level, format"),
        ("flows.top_k: 5\n", "1:1: unknown key 'flows.top_k'; write it nested, one level for each dot"),
        ("flows: 3\n", "1:8: flows: expected a mapping of names to values, got '3'"),
        ("- a\n", "1:1: top level: expected a mapping of names to values, got a list"),
        ("flows: {top_k: 5, top_k: 6}\n", "1:19: flows: 'top_k' is there twice, first in line 1"),
        ("flows: {top_k: 1}\nlog: {}\nflows: {}\n", "3:1: top level: 'flows' is there twice, first in line 1"),
        ("flows: {[a]: 1}\n", "1:9: flows: a name must be text, not a list"),
        ("flows: {top_k: abc}\n", "1:16: flows.top_k: expected an integer from 0 to 100000, got 'abc'"),
        ("flows: {top_k: '5'}\n", "1:16: flows.top_k: expected an integer from 0 to 100000, got '5'"),
        ("flows: {top_k: 1.5}\n", "1:16: flows.top_k: expected an integer from 0 to 100000, got '1.5'"),
        ("flows: {top_k: -1}\n", "1:16: flows.top_k: expected an integer from 0 to 100000, got -1"),
        ("flows: {top_k: null}\n", "1:16: flows.top_k: expected an integer from 0 to 100000, got null"),
        ("flows: {top_k: [1]}\n", "1:16: flows.top_k: expected an integer from 0 to 100000, got a list"),
        (
            "flows: {top_k: 99999999999999999999}\n",
            "1:16: flows.top_k: expected an integer from 0 to 100000, got '99999999999999999999'",
        ),
        (
            "export:\n  interval_seconds: 0.05\n",
            "2:21: export.interval_seconds: expected a number from 0.1 to 3600, got 0.05",
        ),
        (
            "export: {interval_seconds: .nan}\n",
            "1:28: export.interval_seconds: expected a number from 0.1 to 3600, got '.nan'",
        ),
        ("probes: {xdp: {enabled: 1}}\n", "1:25: probes.xdp.enabled: expected true or false, got '1'"),
        ("probes: {xdp: {enabled: {}}}\n", "1:25: probes.xdp.enabled: expected true or false, got a mapping"),
        (
            "probes: {xdp: {mode: Native}}\n",
            "1:22: probes.xdp.mode: expected one of auto, native, generic, got 'Native'",
        ),
        ("interfaces: {include: eth0}\n", "1:23: interfaces.include: expected a list of text, got 'eth0'"),
        ("interfaces: {include: [a, [b]]}\n", "1:27: interfaces.include: expected text, got a list"),
        ("interfaces: {include: [a, null]}\n", "1:27: interfaces.include: expected text, got null"),
        ("interfaces: {include: [a, '']}\n", "1:27: interfaces.include: an interface name cannot be empty"),
        (
            "interfaces:\n  include:\n  - ok0\n  - abcdefghijklmnop\n",
            "4:5: interfaces.include: 'abcdefghijklmnop' cannot match: an interface name has at most 15 bytes",
        ),
        ("prometheus: {listen: 9464}\n", "1:22: prometheus.listen: the port is missing: write HOST:PORT"),
        ("otlp: {endpoint: ftp://h}\n", "1:18: otlp.endpoint: the scheme ftp:// is not http:// or https://"),
        ("otlp: {headers: {a: 1, A: 2}}\n", "1:27: otlp.headers.A: is there twice, letter case does not count"),
        ("otlp: {headers: {'a b': 1}}\n", "1:25: otlp.headers.a b: 'a b' is not a header name"),
        ("otlp: {headers: {a: [1]}}\n", "1:21: otlp.headers.a: expected text, got a list"),
        ("otlp: {headers: secret}\n", "1:17: otlp.headers: expected a mapping of names to text"),
        ("resource: {attributes: {'': x}}\n", "1:29: resource.attributes.: an attribute name cannot be empty"),
        (
            "images: {directory: cache}\n",
            "1:21: images.directory: 'cache' is not an absolute path",
        ),
        (
            "flows: {top_k: !!python/name:os.system x}\n",
            "1:16: flows.top_k: expected an integer from 0 to 100000, got the tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
        (
            "otlp: {signals: [metrics, spans]}\n",
            "1:27: otlp.signals: expected a list of metrics, traces, logs, got 'spans'",
        ),
        ("otlp: {destinations: [a]}\n", "1:22: otlp.destinations: expected a mapping of names to values, got a list"),
        (
            "otlp:\n  destinations:\n    Backup: {endpoint: http://b}\n",
            (
                "3:5: otlp.destinations: 'Backup': a destination's name has 1 to 32 of a-z, 0-9, _ and -, "
                "the first of a-z and 0-9"
            ),
        ),
        (
            "otlp: {destinations: {default: {endpoint: http://b}}}\n",
            (
                "1:23: otlp.destinations: 'default': default is the name of the receiver that the keys of otlp describe; "
                "take another"
            ),
        ),
        ("otlp: {destinations: {b: }}\n", "1:23: otlp.destinations.b is empty, set otlp.destinations.b.endpoint"),
        ("otlp: {destinations: {b: {}}}\n", "1:23: otlp.destinations.b is empty, set otlp.destinations.b.endpoint"),
        (
            "otlp: {destinations: {b: http://b}}\n",
            "1:26: otlp.destinations.b: expected a mapping of names to values, got 'http://b'",
        ),
        (
            "otlp: {destinations: {b: {endpont: http://b}}}\n",
            "1:27: unknown key 'otlp.destinations.b.endpont'; did you mean otlp.destinations.b.endpoint?",
        ),
        (
            "otlp: {destinations: {b: {enabled: true}}}\n",
            "1:27: unknown key 'otlp.destinations.b.enabled'; did you mean otlp.enabled?",
        ),
        (
            "otlp: {destinations: {b: {timeout_seconds: 0}}}\n",
            "1:44: otlp.destinations.b.timeout_seconds: expected a number from 0.1 to 3600, got 0.0",
        ),
        (
            "otlp:\n  destinations.b.endpoint: http://b\n",
            "2:3: unknown key 'otlp.destinations.b.endpoint'; write it nested, one level for each dot",
        ),
        (
            "otlp: {destinations: {b: {endpoint: 'http://a'}, b: {endpoint: 'http://b'}}}\n",
            "1:50: otlp.destinations: 'b' is there twice, first in line 1",
        ),
        (
            "otlp: {destinations: {" + ", ".join(f"d{n}: {{endpoint: 'http://d{n}'}}" for n in range(17)) + "}}",
            "1:22: otlp.destinations: there are 17, at most 16 are possible",
        ),
        ("log: !mine {}\n", "1:6: log: expected a mapping of names to values, got the tag '!mine'"),
        ("log:\n  level: ${env:NOPE}\n", "2:10: log.level: the environment variable NOPE is not set"),
        (
            "log: {level: '${NOPE}'}\n",
            "1:14: log.level: '${NOPE}' is not a substitution: write ${env:NAME}, or $$ for a dollar sign",
        ),
        (
            "log: {level: '${env:NOPE'}\n",
            "1:14: log.level: '${env:NOPE' is not a substitution: write ${env:NAME}, or $$ for a dollar sign",
        ),
        ("a: b\n---\nc: d\n", "2:1: not valid YAML: but found another document"),
        ("log:\n\tlevel: info\n", "2:1: not valid YAML: found character that cannot start any token"),
        ("é: é: é\n", "1:5: not valid YAML: mapping values are not allowed in this context"),
        ("log: *x\n", "1:6: not valid YAML: found undefined alias"),
        ("log:\n  level: \x07\n", "2:10: the character U+0007 is not allowed in YAML"),
        (b"log:\n  level: \xff\n", "2:10: the file is not UTF-8"),
        ("a: " + "[" * 40 + "]" * 40, "1:19: nested deeper than 16 levels"),
    ],
)
def test_a_problem_has_its_place(text: str | bytes, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_problems_of_a_file_are_told_in_its_order() -> None:
    text = (
        "log: {level: loud}\nflows:\n  topk: 1\nexport: {interval_seconds: 0}\ninterfaces: {include: [a b, '', eth0]}\n"
    )
    assert [line.split(": ")[0] for line in problems(text)] == ["1:14", "3:3", "4:28", "5:24", "5:29"]


def test_a_secret_never_appears_in_a_problem() -> None:
    text = 'otlp: {headers: {a: "hush\\u0001", "b c": hush, c: [hush], d: "[REDACTED]", e: "hush ${nope}"}}'
    found = problems(text)
    assert len(found) == 5
    assert "hush" not in "".join(found)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "flows:\n", "otlp: {headers: }\n", "null\n", "\ufeff"])
def test_an_empty_file_or_section_sets_nothing(text: str) -> None:
    assert values(text) == {}


def test_the_type_of_a_key_decides_how_a_scalar_is_read() -> None:
    text = """
interfaces: {include: [on, no, 1, 1e3, 2024-01-01, ~x], allow_missing: yes}
resource: {attributes: {version: 1.10, flag: off, day: 2024-01-01, time: 12:30:00, empty: ""}}
export: {interval_seconds: 1e1}
"""
    assert values(text) == {
        "interfaces.include": ("on", "no", "1", "1e3", "2024-01-01", "~x"),
        "interfaces.allow_missing": True,
        "resource.attributes.version": "1.10",
        "resource.attributes.flag": "off",
        "resource.attributes.day": "2024-01-01",
        "resource.attributes.time": "12:30:00",
        "resource.attributes.empty": "",
        "export.interval_seconds": 10.0,
    }


def test_an_explicit_null_is_a_value_of_an_optional_key_only() -> None:
    assert values("otlp: {endpoint: null, certificate: }\n") == {"otlp.endpoint": None, "otlp.certificate": None}
    assert values("otlp: {endpoint: 'null'}\n") == {"otlp.endpoint": "null"}


def test_a_value_knows_its_place() -> None:
    found, _ = source.read_text(b"flows:\n  top_k: 7\notlp:\n  headers:\n    X-Key: v\n", "a.yaml", {})
    assert found["flows.top_k"] == (7, Origin("file", "a.yaml:2:10"))
    assert found["otlp.headers.x-key"] == ("v", Origin("file", "a.yaml:5:5"))


def test_destinations_are_read_key_by_key() -> None:
    text = """
otlp:
  destinations:
    backup: {endpoint: "${env:URL}", headers: {X-Key: v}, signals: [traces], timeout_seconds: 2}
    on:
      endpoint: null.example:1
      protocol: grpc
"""
    assert values(text, URL="http://b") == {
        "otlp.destinations.backup.endpoint": "http://b",
        "otlp.destinations.backup.headers.x-key": "v",
        "otlp.destinations.backup.signals": ("traces",),
        "otlp.destinations.backup.timeout_seconds": 2.0,
        "otlp.destinations.on.endpoint": "null.example:1",
        "otlp.destinations.on.protocol": "grpc",
    }
    found, _ = source.read_text(text.encode(), "a.yaml", {"URL": "http://b"})
    assert found["otlp.destinations.on.protocol"][1] == Origin("file", "a.yaml:7:17")


def test_substitution() -> None:
    text = """
flows: {top_k: "${env:TOP}"}
probes:
  xdp:
    enabled: ${env:UNSET:-true}
interfaces: {include: "${env:NAMES}"}
resource: {attributes: {a: "x${env:TOP}$${env:TOP}$", b: "${env:EMPTY}", c: "${env:EMPTY:-d}", e: "${env:TRICK}"}}
"""
    assert values(text, TOP="7", NAMES="eth0, eth1", EMPTY="", TRICK="${env:TOP}") == {
        "flows.top_k": 7,
        "probes.xdp.enabled": True,
        "interfaces.include": ("eth0", "eth1"),
        "resource.attributes.a": "x7${env:TOP}$",
        "resource.attributes.b": "",
        "resource.attributes.c": "d",
        "resource.attributes.e": "${env:TOP}",
    }


def test_a_substituted_value_is_checked() -> None:
    assert problems("flows: {top_k: '${env:TOP}'}", TOP="x") == [
        "1:16: flows.top_k: expected an integer from 0 to 100000, got 'x'"
    ]


def test_aliases_cannot_expand() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    lines += ["interfaces: {include: *a11, exclude: &r [*r]}"]
    found = problems("\n".join(lines))
    assert len(found) == 12 + 10 + 1
    assert found[-1] == "13:38: interfaces.exclude: expected text, got a list"
    assert values("interfaces: {include: &n [a, b], exclude: *n}") == {
        "interfaces.include": ("a", "b"),
        "interfaces.exclude": ("a", "b"),
    }


def test_aliases_of_a_destination_cannot_expand() -> None:
    headers = ", ".join(f"h{n}: x" for n in range(1000))
    names = ", ".join(f"d{n}: *d" for n in range(1000))
    found, faults = source.read_text(
        f"otlp: {{destinations: {{d: &d {{headers: {{{headers}}}}}, {names}}}}}".encode(), "f", {}
    )
    assert (found, faults) == ({}, ["f:1:22: otlp.destinations: there are 1001, at most 16 are possible"])


def test_deep_block_nesting_is_refused_without_recursion() -> None:
    assert problems("log: " + "- " * 100_000) != []
    assert problems("".join(f"{' ' * n}a:\n" for n in range(200))) == ["17:17: nested deeper than 16 levels"]


def test_a_file_that_is_too_large_or_not_there(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * source.MAX_FILE_BYTES)
    assert source.read_file(str(large), {}) == ({}, [])
    large.write_bytes(b"#" * (source.MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match=r"large\.yaml:1:1: the configuration file is larger than 1048576 bytes"):
        source.read_file(str(large), {})
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*: No such file or directory; name a"):
        source.read_file(str(tmp_path / "absent.yaml"), {})
    with pytest.raises(ConfigError, match="Is a directory"):
        source.read_file(str(tmp_path), {})
    with pytest.raises(ConfigError, match="null byte"):
        source.read_file("a\0b", {})
