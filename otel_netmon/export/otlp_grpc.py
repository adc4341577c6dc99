"""OTLP over gRPC ("OTLP/gRPC" of the specification): grpcio carries bytes, what they mean is read here.

Importing this module costs 9 MB and a channel some threads, so only who speaks gRPC does.
"""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Any, Final

# gRPC's core writes to standard error on its own, past every logging configuration; what matters comes back as a status.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from otel_netmon import __version__
from otel_netmon.config.model import Receiver
from otel_netmon.errors import ConfigError
from otel_netmon.export import otlp_responses, otlp_target, tls
from otel_netmon.export.otlp_responses import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES
from otel_netmon.export.otlp_target import Target
from otel_netmon.export.requests import Outcome, Request, Signal

_COMPRESSION: Final = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}
_STATUS_DETAILS: Final = "grpc-status-details-bin"

_METADATA_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[ -~]*")
_OURS: Final = frozenset({"content-type", "te", "user-agent"})

_TOO_LARGE = re.compile(r"(received|decompressed) message larger than max", re.IGNORECASE)
"""How gRPC's core says, by RESOURCE_EXHAUSTED, that an answer is beyond the limit."""

_NOT_CONNECTED = re.compile(r"failed to connect|errors resolving|resolution failed|address lookup", re.IGNORECASE)
"""How it says that there is no connection. Such a channel would go on trying in the background, with some 25 wake-ups a second."""


class GrpcTransport:
    """Sends the requests of one receiver; see ``requests.Transport``.

    Raises:
        ConfigError: an endpoint, a header, a PEM file or the proxy cannot be used.
    """

    def __init__(self, settings: Receiver) -> None:
        headers = dict(settings.headers)
        agent = headers.pop("user-agent", "")
        wrong = sorted(
            name
            for name, value in headers.items()
            if not _METADATA_NAME.fullmatch(name) or name in _OURS or not _METADATA_VALUE.fullmatch(value)
        )
        if wrong:
            remedy = (
                "gRPC metadata: names of a-z, 0-9, - _ and . that do not begin with grpc-, values of printable ASCII"
            )
            raise ConfigError(f"otlp.headers sets {', '.join(map(repr, wrong))}, which gRPC cannot send", remedy)
        self._targets = {signal: otlp_target.of(settings, signal) for signal in Signal}
        self._metadata = tuple(headers.items())
        self._compression = _COMPRESSION[settings.compression]
        self._options: tuple[tuple[str, str | int], ...] = (
            ("grpc.primary_user_agent", agent or f"OTel-OTLP-Exporter-netmon/{__version__}"),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ("grpc.max_send_message_length", -1),  # ours is looked at before
            ("grpc.enable_retries", 0),  # retries are the queue's
            ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
            ("grpc.service_config_disable_resolution", 1),  # no TXT look-ups
        )
        self._tls = tls.Watched(settings, tls.pem, needed=any(target.tls for target in self._targets.values()))
        self._generation = 0
        self._redact = otlp_target.redactor(settings, self._targets.values())
        self._channels: dict[Target, Any] = {}
        self._guard = threading.Lock()
        self._closed = threading.Event()

    def send(self, request: Request, timeout_seconds: float) -> Outcome:
        """One attempt; see ``requests.Transport``."""
        deadline = time.monotonic() + timeout_seconds
        if len(request.body) > MAX_REQUEST_BYTES:
            return otlp_responses.too_large("request", MAX_REQUEST_BYTES)
        target = self._targets[request.signal]
        if target.tls:
            self._tls.current()
        with self._guard:
            if self._closed.is_set():
                return Outcome("retry", "closed", "the transport is closed")
            if self._generation != self._tls.generation:
                self._generation = self._tls.generation
                self._drop_channels()
            channel = self._channels.get(target)
            if channel is None:
                channel = self._channels[target] = self._channel(target)
        call = channel.unary_unary(request.signal.method)  # without serialisers: bytes to bytes
        metadata = self._metadata
        if target.authorization and all(name != "authorization" for name, _ in metadata):
            metadata = (*metadata, ("authorization", target.authorization))
        try:
            answer: bytes = call(
                request.body,
                timeout=max(0.0, deadline - time.monotonic()),
                metadata=metadata,
                compression=self._compression,
            )
        except grpc.RpcError as error:
            return self._failure(target, error)
        except ValueError:
            if self._closed.is_set():  # between the look at the channel and the call
                return Outcome("retry", "closed", "the transport was closed during the request")
            raise
        return otlp_responses.of_grpc_success(answer, self._redact)

    def close(self) -> None:
        """Gives the connections back; a ``send`` under way ends as ``retry``, and so does every later one."""
        with self._guard:
            self._closed.set()
            self._drop_channels()

    def _channel(self, target: Target) -> Any:
        if target.proxy:
            options = (*self._options, ("grpc.http_proxy", target.proxy.url))
        else:
            options = (*self._options, ("grpc.enable_http_proxy", 0))
        where = target.socket or target.authority
        if not target.tls:
            return grpc.insecure_channel(where, options)
        pem = self._tls.current()
        credentials = grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.chain)
        return grpc.secure_channel(where, credentials, options)

    def _failure(self, target: Target, error: Any) -> Outcome:
        """The outcome of a call that failed."""
        if self._closed.is_set():
            return Outcome("retry", "closed", "the transport was closed during the request")
        code: str = error.code().name
        details: str = error.details() or ""
        trailers = {name: value for name, value in error.trailing_metadata() or () if name == _STATUS_DETAILS}
        status_details: bytes = trailers.get(_STATUS_DETAILS, b"")
        if code == "RESOURCE_EXHAUSTED" and not status_details and _TOO_LARGE.search(details):
            return otlp_responses.too_large("response", MAX_ANSWER_BYTES, code)
        # A connection that swallows everything looks as a slow collector does: the next attempt takes a new one.
        if code == "DEADLINE_EXCEEDED" or (code == "UNAVAILABLE" and _NOT_CONNECTED.search(details)):
            with self._guard:
                channel = self._channels.pop(target, None)
            if channel is not None:
                channel.close()
        return otlp_responses.of_grpc_failure(code, details, status_details, self._redact)

    def _drop_channels(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
