"""io/prometheus/client/metrics.proto as Google's own protobuf classes, built from a table: the oracle of the protobuf page.

Numbers and types are those of github.com/prometheus/client_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.internal.decoder import _DecodeVarint32  # type: ignore[attr-defined]

_MESSAGES = """
LabelPair       string name=1  string value=2
Gauge           double value=1
Counter         double value=1  Exemplar exemplar=2  Timestamp created_timestamp=3
Histogram       uint64 sample_count=1  double sample_count_float=4  double sample_sum=2  *Bucket bucket=3
                Timestamp created_timestamp=15  sint32 schema=5  double zero_threshold=6  uint64 zero_count=7
                double zero_count_float=8  *BucketSpan negative_span=9  *sint64 negative_delta=10  *double negative_count=11
                *BucketSpan positive_span=12  *sint64 positive_delta=13  *double positive_count=14  *Exemplar exemplars=16
Bucket          uint64 cumulative_count=1  double cumulative_count_float=4  double upper_bound=2  Exemplar exemplar=3
BucketSpan      sint32 offset=1  uint32 length=2
Exemplar        *LabelPair label=1  double value=2  Timestamp timestamp=3
Metric          *LabelPair label=1  Gauge gauge=2  Counter counter=3  Histogram histogram=7  int64 timestamp_ms=6
MetricFamily    string name=1  string help=2  MetricType type=3  *Metric metric=4  string unit=5
"""
_TYPES = ("COUNTER", "GAUGE", "SUMMARY", "UNTYPED", "HISTOGRAM", "GAUGE_HISTOGRAM")
_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "io.prometheus.client"


def _family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="metrics.proto", package=_PACKAGE, syntax="proto2", dependency=["google/protobuf/timestamp.proto"]
    )
    types = file.enum_type.add(name="MetricType")
    for value, name in enumerate(_TYPES):
        types.value.add(name=name, number=value)
    scalars = {name.removeprefix("TYPE_").lower() for name in _Field.Type.keys()}  # noqa: SIM118 - not a mapping
    for line in _MESSAGES.strip().splitlines():
        words = line.split()
        if not line.startswith(" "):
            message = file.message_type.add(name=words.pop(0))
        for marked, definition in zip(words[::2], words[1::2], strict=True):
            name, _, number = definition.partition("=")
            field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
            if marked.startswith("*"):
                field.label = _Field.LABEL_REPEATED
            kind = marked.removeprefix("*")
            if kind in scalars:
                field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
            elif kind == "MetricType":
                field.type, field.type_name = _Field.TYPE_ENUM, f".{_PACKAGE}.{kind}"
            else:
                package = "google.protobuf" if kind == "Timestamp" else _PACKAGE
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.MetricFamily"))


MetricFamily = _family_class()


def families(page: bytes) -> Iterator[Any]:
    """The ``MetricFamily`` messages of a page, each with its length before it; nothing unknown may be in one."""
    at = 0
    while at < len(page):
        length, at = _DecodeVarint32(page, at)
        assert at + length <= len(page)
        family = MetricFamily()
        family.MergeFromString(page[at : at + length])
        at += length
        known = MetricFamily()
        known.CopyFrom(family)
        known.DiscardUnknownFields()
        assert known == family
        assert family.type in range(len(_TYPES))
        yield family
