"""Names folded to domains."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from otel_netmon.analysis import dns_names
from otel_netmon.analysis.dns_names import NameFolding
from otel_netmon.decode.dns_names import text_of_labels

FOLDING = NameFolding()


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("example.com", "example.com"),
        ("WWW.Example.COM", "example.com"),
        ("a.b.c.example.com", "example.com"),
        ("www.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("com", "com"),
        ("www.city.kawasaki.jp", "city.kawasaki.jp"),  # an exception to a rule with a star
        ("a.b.c.kawasaki.jp", "b.c.kawasaki.jp"),
        ("somebody.github.io", "github.io"),
        ("bucket.s3.eu-west-1.amazonaws.com", "amazonaws.com"),
        ("db.shop.svc.cluster.local", "cluster.local"),
        ("www.xn--fiqs8s.xn--55qx5d.cn", "xn--fiqs8s.xn--55qx5d.cn"),
        ("_443._tcp.www.example.org", "example.org"),
        ("localhost", "localhost"),
        (".", "."),
        ("", ""),
        ("a\\.b.c\\.d.e", "c\\.d.e"),
        ("x.a\\.com", "x.a\\.com"),
        ("\\000.\\255.\\\\.test", "\\\\.test"),
        ("4.3.2.1.in-addr.arpa", "3.2.1.in-addr.arpa"),
        ("0-63.3.2.1.In-Addr.Arpa", "3.2.1.in-addr.arpa"),
        ("2.1.in-addr.arpa", "2.1.in-addr.arpa"),
        ("in-addr.arpa", "in-addr.arpa"),
        ("b.a.9.8." + "7." * 16 + "c.b.a.9.8.b.d.0.1.0.0.2.ip6.arpa", "c.b.a.9.8.b.d.0.1.0.0.2.ip6.arpa"),
        ("8.b.d.0.1.0.0.2.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"),
        ("home.arpa", "home.arpa"),
    ],
)
def test_names(name: str, folded: str) -> None:
    assert FOLDING.fold(name) == folded
    assert FOLDING.fold(folded) == folded


def test_other_depths() -> None:
    assert NameFolding(1).fold("www.example.com") == "example.com"
    assert NameFolding(3).fold("a.www.example.com") == "www.example.com"
    assert NameFolding(3).fold("a.www.example.co.uk") == "example.co.uk"
    assert NameFolding(127).fold("a.b.c.d.example.co.uk") == "a.b.c.d.example.co.uk"
    assert NameFolding(127).fold("4.3.2.1.in-addr.arpa") == "3.2.1.in-addr.arpa"


def test_what_several_names_have_in_common() -> None:
    assert FOLDING.common(("www.example.com", "cdn.Example.com")) == "example.com"
    assert FOLDING.common(("www.example.com", "www.example.org")) is None
    assert FOLDING.common(()) is None


@given(labels=st.lists(st.binary(min_size=1, max_size=20), max_size=12), depth=st.integers(1, 5))
def test_any_name_folds_to_labels_of_its_own(labels: list[bytes], depth: int) -> None:
    name = text_of_labels(labels).lower()
    folded = NameFolding.fold(FOLDINGS[depth], name)
    if labels:
        assert folded in {text_of_labels(labels[at:]).lower() for at in range(len(labels))}
    assert FOLDINGS[depth].fold(folded) == folded


FOLDINGS = {depth: NameFolding(depth) for depth in range(1, 6)}


def test_long_names_are_not_kept() -> None:
    folding = NameFolding()
    long = "x" * 60 + "." + "y" * 60 + ".example.com"
    assert folding.fold(long) == "example.com"
    assert folding._known.cache_info().currsize == 0
    folding.fold("www.example.com")
    assert folding._known.cache_info()[:4] == (0, 1, dns_names._KNOWN_NAMES, 1)
