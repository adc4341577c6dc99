"""Which probes the programs at OpenSSL need, and what is told where they are off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_netmon.config.load import load
from otel_netmon.kernel.messages import HTTP_PROGRAM
from otel_netmon.loading import Images, load_images
from otel_netmon.selfmon.journal import Journal

pytestmark = pytest.mark.kernel


@contextlib.contextmanager
def loaded(folder: Path, *settings: str) -> Iterator[Images]:
    file = folder / "config.yaml"
    file.write_text("{}\n")
    images = load_images(load(str(file), {}, settings, {}).config, Journal("error"))
    try:
        yield images
    finally:
        images.close()


def test_it_is_not_loaded_where_nobody_asks(tmp_path: Path) -> None:
    with loaded(tmp_path) as images:
        assert "plaintext_monitor" not in images.loaded
        assert "tls_plaintext" not in images.failed


def test_it_is_loaded_with_the_programs_that_follow_http(tmp_path: Path) -> None:
    with loaded(tmp_path, "probes.tls_plaintext=openssl") as images:
        assert images.loaded["plaintext_monitor"].runs(HTTP_PROGRAM)
        assert "tls_plaintext" not in images.failed


@pytest.mark.parametrize("other", ["probes.http.enabled=false", "probes.flows.enabled=false"])
def test_without_the_probe_that_tells_requests_it_is_off(other: str, tmp_path: Path) -> None:
    with loaded(tmp_path, "probes.tls_plaintext=openssl", "messages.vantage=interface", other) as images:
        assert "plaintext_monitor" not in images.loaded
        assert images.failed["tls_plaintext"][0] == "needs_http"
