"""Nothing stays behind, however the agent ends, and other programs at the same hooks see every packet: a few rounds of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.leaves_nothing import Place, place, play

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def where() -> Iterator[Place]:
    with place() as made:
        yield made


@pytest.mark.parametrize(
    ("mode", "end", "moment", "late_first"),
    [
        ("tcx", "kill supervisor", 1.0, False),
        ("clsact", "kill both", 1.0, True),
        ("clsact", "kill pipeline", 0.9, False),
        ("xdp", "kill both", 0.4, True),
        ("tcx", "SIGTERM", 0.3, True),
        ("xdp", "SIGINT", 0.8, False),
    ],
)
def test_nothing_is_left(where: Place, mode: str, end: str, moment: float, late_first: bool) -> None:
    play(where, mode, end, moment, late_first)
