"""Which programs are loaded for the enabled probes, each once, and what is off where the kernel refuses one."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otel_netmon.abi.enums import Late
from otel_netmon.config.model import Config, Messages
from otel_netmon.kernel import image, loader
from otel_netmon.kernel.hooks import interface_constants
from otel_netmon.loading import load_images, socket_constants
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


@contextmanager
def refused(monkeypatch: pytest.MonkeyPatch, stem: str, program: str) -> Iterator[None]:
    """The kernel refuses a program of an image."""
    obtain = loader.obtain

    def damaged(name: str, *others: object, **named: object) -> tuple[image.Image, str]:
        made, origin = obtain(name, *others, **named)  # type: ignore[arg-type]
        if name != stem:
            return made, origin
        broken = made.programs[program]._replace(instructions=REFUSED)
        return made._replace(programs={**made.programs, program: broken}), origin

    since = mark()
    with monkeypatch.context() as patched:
        patched.setattr(loader, "obtain", damaged)
        yield
    wait_nothing_left(since)


AT_SOCKETS = Config(messages=Messages(vantage="host"))


@pytest.mark.parametrize(
    ("config", "stem", "program", "failed", "loaded"),
    [
        (
            Config(),
            "tc_monitor",
            "netmon_transmit",
            {"flows", "dns", "tls", "http"},
            {"socket_monitor", "drop_monitor"},
        ),
        (AT_SOCKETS, "tc_monitor", "netmon_transmit", {"flows"}, {"socket_monitor", "drop_monitor"}),
        (
            AT_SOCKETS,
            "socket_monitor",
            "netmon_egress",
            {"dns", "tls", "http"},
            {"tc_monitor", "socket_monitor", "drop_monitor"},
        ),
        (AT_SOCKETS, "socket_monitor", "netmon_dns", {"dns"}, {"tc_monitor", "socket_monitor", "drop_monitor"}),
        (AT_SOCKETS, "socket_monitor", "netmon_http", {"http"}, {"tc_monitor", "socket_monitor", "drop_monitor"}),
    ],
)
def test_what_stands_on_a_refused_program_is_off_and_the_rest_runs(
    monkeypatch: pytest.MonkeyPatch, config: Config, stem: str, program: str, failed: set[str], loaded: set[str]
) -> None:
    log = io.StringIO()
    with refused(monkeypatch, stem, program):
        images = load_images(config, Journal("error", "json", stream=log))
        try:
            assert set(images.failed) == failed
            assert {reason for reason, _ in images.failed.values()} == {"kernel_refuses"}
            assert all(program in detail for _, detail in images.failed.values())
            assert set(images.loaded) == loaded
            assert log.getvalue().count("probe.off") == len(failed)
            assert images.degraded == {}
            if failed == {"dns", "tls", "http"}:
                assert Late.MESSAGES not in socket_constants(config, images.loaded["socket_monitor"])
        finally:
            images.close()


@pytest.mark.parametrize(("config", "stem"), [(Config(), "tc_monitor"), (AT_SOCKETS, "socket_monitor")])
def test_without_the_program_for_http2_there_is_http1(
    monkeypatch: pytest.MonkeyPatch, config: Config, stem: str
) -> None:
    log = io.StringIO()
    with refused(monkeypatch, stem, "netmon_http2"):
        images = load_images(config, Journal("error", "json", stream=log))
        try:
            assert images.failed == {}
            ((probe, (reason, detail)),) = images.degraded.items()
            assert (probe, reason) == ("http", "kernel_refuses")
            assert "HTTP/2" in detail
            assert images.loaded[stem].runs("netmon_http")
            assert not images.loaded[stem].runs("netmon_http2")
            assert log.getvalue().count("probe.degraded") == 1
        finally:
            images.close()


def test_only_one_image_looks_for_messages() -> None:
    for config, looks, other in (
        (Config(), "tc_monitor", "socket_monitor"),
        (AT_SOCKETS, "socket_monitor", "tc_monitor"),
    ):
        since = mark()
        images = load_images(config, Journal("error", stream=io.StringIO()))
        try:
            assert (images.failed, images.degraded) == ({}, {})
            for name in ("netmon_dns", "netmon_stream", "netmon_http", "netmon_http2"):
                assert images.loaded[looks].runs(name)
                assert not images.loaded[other].runs(name)
            sizes = {stem: images.loaded[stem].definitions["messages"].max_entries for stem in (looks, other)}
            assert sizes == {looks: config.probes.dns.ring_bytes, other: mmap.PAGESIZE}
        finally:
            images.close()
        wait_nothing_left(since)
