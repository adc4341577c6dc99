"""Which programs are loaded for the enabled probes, each once, and what is off where the kernel refuses one."""

from __future__ import annotations

import io

import pytest

from otel_netmon.config.model import Config
from otel_netmon.kernel import image, loader
from otel_netmon.kernel.hooks import interface_constants
from otel_netmon.loading import load_images
from otel_netmon.selfmon.journal import Journal
from support.bpf_objects import mark, wait_nothing_left

pytestmark = pytest.mark.kernel

REFUSED = bytes.fromhex("9500000000000000")  # exit without a verdict


def test_the_programs_of_an_interface_are_loaded_once_with_what_it_has() -> None:
    since = mark()
    images = load_images(Config(), Journal("error", stream=io.StringIO()))
    try:
        assert images.failed == {}
        tc = images.loaded["tc_monitor"]
        before = tc.programs()
        assert [sum(name.split(",")[0] == program for name in before) for program in tc.image.programs] == [
            1 for _ in tc.image.programs
        ]
        late = interface_constants(tc, decapsulate=False)
        assert tc.program("netmon_receive", late) in before.values()
        assert tc.programs() == before
    finally:
        images.close()
    wait_nothing_left(since)


def test_what_stands_on_a_refused_program_is_off_and_the_rest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    since = mark()
    obtain = loader.obtain

    def damaged(name: str, *others: object, **named: object) -> tuple[image.Image, str]:
        made, origin = obtain(name, *others, **named)  # type: ignore[arg-type]
        if name != "tc_monitor":
            return made, origin
        broken = made.programs["netmon_transmit"]._replace(instructions=REFUSED)
        return made._replace(programs={**made.programs, "netmon_transmit": broken}), origin

    monkeypatch.setattr(loader, "obtain", damaged)
    log = io.StringIO()
    images = load_images(Config(), Journal("error", "json", stream=log))
    try:
        assert set(images.failed) == {"flows", "dns", "tls", "http"}
        assert {reason for reason, _ in images.failed.values()} == {"kernel_refuses"}
        assert all("netmon_transmit" in detail for _, detail in images.failed.values())
        assert set(images.loaded) == {"socket_monitor", "drop_monitor"}
        assert log.getvalue().count("probe.off") == 4
    finally:
        images.close()
    wait_nothing_left(since)
