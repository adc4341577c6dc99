"""Public suffixes as the package publicsuffixlist tells them."""

from __future__ import annotations

from pathlib import Path

import publicsuffixlist
import pytest
from publicsuffixlist import PublicSuffixList

from otel_netmon.analysis import public_suffixes as module
from otel_netmon.analysis.public_suffixes import PublicSuffixes, public_suffixes
from otel_netmon.errors import NetmonError

ORACLE = PublicSuffixList(only_icann=True)
RULES = sorted(rule for rule in ORACLE._publicsuffix if rule.isascii())


def test_the_file_is_that_of_the_package() -> None:
    assert Path(publicsuffixlist.PSLFILE).name == module.FILE


@pytest.mark.parametrize("before", ["", "shop", "www.shop", "a.b.www.shop", "xn--fiqs8s.shop"])
def test_every_rule_of_the_list(before: str) -> None:
    suffixes = public_suffixes()
    assert len(RULES) > 5000
    for rule in RULES:
        for name in (rule.removeprefix("!"), rule.replace("*", "city"), rule.partition(".")[2]):
            labels = [*filter(None, before.split(".")), *name.removeprefix("*.").split(".")]
            if labels[-1]:
                expected = ORACLE.publicsuffix(".".join(labels))
                assert expected is not None
                assert suffixes.labels(labels) == expected.count(".") + 1, labels


def test_no_rule_has_more_labels_than_are_looked_at() -> None:
    assert 2 < max(rule.count(".") + 1 for rule in RULES) < module._LABELS_MAX


@pytest.mark.parametrize(
    ("name", "many"),
    [("nothing.known", 1), ("known", 1), ("a.b.ck", 2), ("www.ck", 1), ("a.www.ck", 1), ("x.xn--55qx5d.cn", 2)],
)
def test_names(name: str, many: int) -> None:
    assert public_suffixes().labels(name.split(".")) == many


def test_a_list_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="substring not found"):
        PublicSuffixes("com")
    monkeypatch.setattr(module, "FILE", str(tmp_path / "nothing"))
    public_suffixes.cache_clear()
    with pytest.raises(NetmonError, match="install the package publicsuffixlist anew"):
        public_suffixes()
