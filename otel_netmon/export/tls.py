"""TLS towards a receiver: who is trusted, who we are, and both read again when their files change.

Certificates are renewed under a running agent (cert-manager, a mounted secret, certbot). Before each attempt the files are looked
at, three stat(2) at most; new ones are used from then on, and ones that cannot be used leave the old in force until they change again.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from otel_netmon.config.model import Receiver
from otel_netmon.errors import ConfigError

_log = structlog.get_logger(__name__)

_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",
)

T = TypeVar("T")
_Signature = tuple[tuple[int, int, int, int, int] | None, ...]


class Watched(Generic[T]):
    """What is made from a receiver's PEM files, made anew when they change.

    Args:
        settings: of the receiver; the keys ``certificate``, ``client_certificate`` and ``client_key`` count.
        load: makes it, or raises ConfigError.
        needed: whether it will be asked for. Otherwise it is made only to see that the files are good, if there are any.

    Raises:
        ConfigError: as ``load`` does.

    Attributes:
        generation: grows with every change of the files that was taken over.
    """

    def __init__(self, settings: Receiver, load: Callable[[Receiver], T], *, needed: bool) -> None:
        self._settings = settings
        self._load = load
        self.generation = 0
        # Looked at before they are read: what changes in between is seen the next time.
        self._seen = self._signature()
        self._current = load(settings) if needed or self._names() else None

    def current(self) -> T:
        """What is in force, after a look at the files."""
        seen = self._signature()
        if self._current is None:
            self._current = self._load(self._settings)
        elif seen != self._seen:
            self._seen = seen  # also where they are refused: told once, tried again when they change again
            try:
                self._current = self._load(self._settings)
            except ConfigError as error:
                _log.warning("otlp.tls_files_refused", error=error.message, remedy="the former ones stay in use")
            else:
                self.generation += 1
                _log.info("otlp.tls_files_reloaded", files=self._names())
        return self._current

    def _names(self) -> list[str]:
        settings = self._settings
        return [name for name in (settings.certificate, settings.client_certificate, settings.client_key) if name]

    def _signature(self) -> _Signature:
        """What changes when a file is written or replaced, through symbolic links; None for a file that is not there."""
        every: list[tuple[int, int, int, int, int] | None] = []
        for name in self._names():
            try:
                found = os.stat(name)
            except OSError:
                every.append(None)
            else:
                every.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        return tuple(every)


def context(settings: Receiver) -> ssl.SSLContext:
    """For HTTP.

    Raises:
        ConfigError: a file cannot be read or is not what it should be, or there is a key without its certificate.
    """
    if settings.client_key and not settings.client_certificate:
        raise ConfigError("otlp.client_key without otlp.client_certificate", "set both, or neither")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.set_alpn_protocols(["http/1.1"])
    if settings.certificate:
        with _named(f"otlp.certificate {settings.certificate}", "name a PEM file with CA certificates"):
            made.load_verify_locations(settings.certificate)
    else:
        made.load_default_certs()
    if settings.client_certificate:
        files = " and ".join(filter(None, (settings.client_certificate, settings.client_key)))
        remedy = "name PEM files with the chain and its key, without a password"
        with _named(f"otlp.client_certificate {files}", remedy):
            # The empty password keeps OpenSSL from asking a terminal for one.
            made.load_cert_chain(settings.client_certificate, settings.client_key, password="")
    return made


@dataclass(frozen=True, slots=True)
class Pem:
    """What gRPC takes: contents of PEM files, None where there is no such file."""

    authorities: bytes | None
    chain: bytes | None
    key: bytes | None = field(repr=False)


def pem(settings: Receiver) -> Pem:
    """For gRPC, which notices only when it connects that a file is none.

    Raises:
        ConfigError: as ``context``.
    """
    context(settings)
    with _named("the PEM files of otlp", "see that they can be read"):
        chain = Path(settings.client_certificate).read_bytes() if settings.client_certificate else None
        key = Path(settings.client_key).read_bytes() if settings.client_key else chain  # one file may hold both
        authorities = Path(settings.certificate).read_bytes() if settings.certificate else _system_authorities()
    return Pem(authorities, chain, key)


@contextlib.contextmanager
def _named(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"cannot use {what}: {error.strerror or error}", remedy) from error


def _system_authorities() -> bytes | None:
    """The system's bundle, which gRPC does not look for; None leaves it to gRPC: GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, or its own."""
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    for name in (os.environ.get("SSL_CERT_FILE"), *_SYSTEM_BUNDLES):
        if name and Path(name).is_file():
            return Path(name).read_bytes()
    return None
