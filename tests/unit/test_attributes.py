"""Sets of attributes with a resource: identity, decoding, labels."""

from __future__ import annotations

from otel_netmon.otel.attributes import AttributeSet, Tag, Value, decoded, encode, encoded_resource

POINT: dict[str, Value] = {"network.io.direction": "receive", "server.port": 443}
PROCESS: dict[str, Value] = {"service.name": "nginx", "process.pid": 4711, "process.executable.name": "ng\udcffx"}
PORTABLE = {**PROCESS, "process.executable.name": "ng\ufffddcffx"}


def test_a_resource_is_a_part_of_the_identity() -> None:
    own, other = AttributeSet.of(POINT), AttributeSet.of(POINT, PROCESS)
    assert own != other
    assert len({own, other, AttributeSet.of(POINT, {**PROCESS, "process.pid": 4712})}) == 3
    again = AttributeSet(encode(POINT, Tag.NUMBER_DATA_POINT), encode(PROCESS, Tag.RESOURCE))
    assert again == other
    assert hash(again) == hash(other)
    assert AttributeSet.of({}, POINT) != AttributeSet.of(POINT, {})


def test_a_set_is_made_once_and_so_is_its_resource() -> None:
    assert AttributeSet.of(POINT, PROCESS) is AttributeSet.of(dict(POINT), dict(PROCESS))
    assert AttributeSet.of(POINT, encoded_resource(PROCESS)) is AttributeSet.of(POINT, PROCESS)
    assert AttributeSet.of({}, PROCESS).resource is AttributeSet.of(POINT, PROCESS).resource
    assert (
        AttributeSet.of(POINT, None)
        is AttributeSet.of(POINT, {})
        is AttributeSet.of(POINT, b"")
        is AttributeSet.of(POINT)
    )
    assert AttributeSet.of({}, {"process.pid": 1}) != AttributeSet.of({}, {"process.pid": True})


def test_both_parts_are_decoded_apart() -> None:
    found = AttributeSet.of(POINT, PROCESS)
    assert dict(found.items()) == POINT
    assert dict(found.resource_items()) == PORTABLE == decoded(found.resource)
    assert found.resource == encode(PROCESS, Tag.RESOURCE)
    assert dict(AttributeSet.of(POINT).resource_items()) == {}
    assert str(PORTABLE) in repr(found)
    assert found.with_tag(Tag.HISTOGRAM_DATA_POINT) == encode(POINT, Tag.HISTOGRAM_DATA_POINT)


def test_labels_are_those_of_the_point_and_then_those_of_the_resource() -> None:
    found = AttributeSet.of({"server.port": 443, "a": 'x"'}, {"process.pid": 7, "b": "", "c": True})
    assert found.labels == 'server_port="443",a="x\\"",process_pid="7",c="true"'
    assert AttributeSet.of({}, {"process.pid": 7}).labels == 'process_pid="7"'


def test_keys_that_become_one_label_are_joined_over_both() -> None:
    found = AttributeSet.of({"server.name": "point", "same": "z"}, {"server-name": "resource", "same": "a"})
    assert found.label_pairs() == [("server_name", "resource;point"), ("same", "z;a")]
    assert found.labels == 'server_name="resource;point",same="z;a"'
