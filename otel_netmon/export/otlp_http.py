"""OTLP over HTTP/1.1 with binary protocol buffers ("OTLP/HTTP" of the specification).

A connection is kept for the next request. One attempt, from the look-up of the name to the last byte of the answer, keeps one
deadline. The only thing done twice within an attempt is a request on a kept connection that the receiver had closed meanwhile.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import zlib
from dataclasses import dataclass
from typing import Final

from otel_netmon import __version__
from otel_netmon.config.model import Receiver
from otel_netmon.errors import ConfigError
from otel_netmon.export import http1, otlp_responses, otlp_target, tls
from otel_netmon.export.connecting import Connector
from otel_netmon.export.otlp_responses import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, Conceal
from otel_netmon.export.otlp_target import Target
from otel_netmon.export.proxy import Proxy
from otel_netmon.export.requests import Outcome, Request, Signal
from otel_netmon.export.streams import CancelledError, Stream, Waiter

USER_AGENT: Final = f"OTel-OTLP-Exporter-netmon/{__version__}"

GZIP_LEVEL: Final = 1
"""1.7 MB of 8192 flow points: level 1 takes 6 ms and leaves 10 %, level 6 takes 14 ms and leaves 7 %."""

MAX_IDLE_SECONDS: Final = 90.0
"""A connection that rested longer is not used again: something between may have forgotten it and drop packets in silence."""

_OURS: Final = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "te", "transfer-encoding", "upgrade"}
)


class _ProxyError(Exception):
    """The proxy cannot be reached or does not let us through."""


@dataclass(slots=True)
class _Kept:
    """A connection that rests between two requests."""

    stream: Stream
    since: float


class HttpTransport:
    """Sends the requests of one receiver; see ``requests.Transport``.

    Raises:
        ConfigError: an endpoint, a header, a PEM file or the proxy cannot be used.
    """

    def __init__(self, settings: Receiver) -> None:
        wrong = sorted(_OURS & settings.headers.keys())
        if wrong:
            raise ConfigError(f"otlp.headers sets {', '.join(wrong)}", "leave it out: the transport sets it")
        self._targets = {signal: otlp_target.of(settings, signal) for signal in Signal}
        self._headers = settings.headers
        self._compress = settings.compression == "gzip"
        self._tls = tls.Watched(settings, tls.context, needed=any(target.tls for target in self._targets.values()))
        self._generation = 0
        self._redact = otlp_target.redactor(settings, self._targets.values())
        self._waiter = Waiter()
        self._connector = Connector(self._waiter)
        self._kept: dict[tuple[bool, str], _Kept] = {}
        self._sending = threading.Lock()
        self._closing = threading.Lock()
        self._closed = False

    def send(self, request: Request, timeout_seconds: float) -> Outcome:
        """One attempt; see ``requests.Transport``."""
        deadline = time.monotonic() + timeout_seconds
        if len(request.body) > MAX_REQUEST_BYTES:
            return otlp_responses.too_large("request", MAX_REQUEST_BYTES)
        target = self._targets[request.signal]
        with self._sending:
            if self._closed:
                return Outcome("retry", "closed", "the transport is closed")
            answer = http1.AnswerReader(MAX_ANSWER_BYTES)
            try:
                answer = self._attempt(target, self._message(target, request.body), deadline)
                body = answer.content()
            except http1.TooLargeError:
                return otlp_responses.too_large("response", MAX_ANSWER_BYTES)
            except Exception as error:
                outcome = _explained(error, target, timeout_seconds, self._redact)
                if outcome is None:
                    raise
                return outcome
        return otlp_responses.of_http(
            answer.status, answer.phrase, answer.headers, body, now=time.time(), conceal=self._redact
        )

    def close(self) -> None:
        """Gives the connections back; a ``send`` under way ends as ``retry``, and so does every later one."""
        if not self._closing.acquire(blocking=False):
            return  # closed before
        self._closed = True
        self._waiter.cancel()
        with self._sending:
            self._drop_kept()
            self._connector.close()
            self._waiter.close()

    def _message(self, target: Target, body: bytes) -> bytes:
        headers = {"host": _host_header(target), "user-agent": USER_AGENT, "accept-encoding": "identity"}
        if target.authorization:
            headers["authorization"] = target.authorization
        headers |= self._headers  # the user's word goes before ours
        if target.proxy and not target.tls and target.proxy.authorization:
            headers["proxy-authorization"] = target.proxy.authorization
        headers["content-type"] = "application/x-protobuf"
        if self._compress:
            headers["content-encoding"] = "gzip"
            packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
            body = packer.compress(body) + packer.flush()
        headers["content-length"] = str(len(body))
        place = f"http://{_host_header(target)}{target.path}" if target.proxy and not target.tls else target.path
        return http1.request_head("POST", place, headers) + body

    def _attempt(self, target: Target, message: bytes, deadline: float) -> http1.AnswerReader:
        """Send on the kept connection or a new one, and keep it when it can be used again."""
        if target.tls:
            self._tls.current()
            if self._generation != self._tls.generation:
                self._generation = self._tls.generation
                self._drop_kept()
        key = (target.tls, target.authority)
        stream = self._take_kept(key)
        answer = http1.AnswerReader(MAX_ANSWER_BYTES)
        if stream is not None:
            try:
                return self._exchange(key, stream, message, answer, deadline)
            except (ConnectionError, ssl.SSLError):
                if answer.started:
                    raise
        # The receiver closed the kept connection while the request was on its way: that says nothing of the request.
        answer = http1.AnswerReader(MAX_ANSWER_BYTES)
        return self._exchange(key, self._open(target, deadline), message, answer, deadline)

    def _take_kept(self, key: tuple[bool, str]) -> Stream | None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        if time.monotonic() - kept.since <= MAX_IDLE_SECONDS and kept.stream.quiet():
            return kept.stream
        kept.stream.close()
        return None

    def _exchange(
        self, key: tuple[bool, str], stream: Stream, message: bytes, answer: http1.AnswerReader, deadline: float
    ) -> http1.AnswerReader:
        """One request and its answer. An answer whose head arrived counts, whatever becomes of its body."""
        keep = False
        try:
            early = stream.send(message, deadline)
            if early:
                answer.feed(early)
            _read(stream, answer, deadline)
            keep = answer.reusable and not early
        except (OSError, CancelledError):
            if not answer.status:
                raise
            answer.finish(broken=True)
        finally:
            if keep:
                self._kept[key] = _Kept(stream, time.monotonic())
            else:
                stream.close()
        return answer

    def _open(self, target: Target, deadline: float) -> Stream:
        """A new connection to the target, through its proxy and with TLS where it has them."""
        proxy = target.proxy
        try:
            host, port = (proxy.host, proxy.port) if proxy else (target.host, target.port)
            stream = Stream(self._connector.connect(host, port, deadline), self._waiter)
        except TimeoutError:
            raise TimeoutError("no connection") from None
        except OSError as error:
            if proxy:
                raise _ProxyError(f"cannot reach the proxy {proxy.host}:{proxy.port}: {_text(error)}") from error
            raise
        try:
            if target.tls:
                if proxy:
                    self._tunnel(stream, proxy, target, deadline)
                _handshake(stream, self._tls.current(), target.host, deadline)
        except BaseException:
            stream.close()
            raise
        return stream

    def _tunnel(self, stream: Stream, proxy: Proxy, target: Target, deadline: float) -> None:
        """CONNECT (RFC 9110, section 9.3.6)."""
        headers = {"host": target.authority, "user-agent": USER_AGENT}
        if proxy.authorization:
            headers["proxy-authorization"] = proxy.authorization
        answer = http1.AnswerReader(MAX_ANSWER_BYTES, tunnel=True)
        where = f"the proxy {proxy.host}:{proxy.port}"
        try:
            early = stream.send(http1.request_head("CONNECT", target.authority, headers), deadline)
            if early:
                answer.feed(early)
            _read(stream, answer, deadline)
        except (ConnectionError, http1.NotHttpError, http1.TooLargeError) as error:
            raise _ProxyError(f"{where} broke off: {_text(error)}") from error
        if not 200 <= answer.status < 300:
            raise _ProxyError(
                f"{where} answered HTTP {answer.status} {otlp_responses.words(answer.phrase, self._redact)}".rstrip()
            )

    def _drop_kept(self) -> None:
        for kept in self._kept.values():
            kept.stream.close()
        self._kept.clear()


class _HandshakeError(Exception):
    """TLS could not be agreed on."""


def _handshake(stream: Stream, context: ssl.SSLContext, host: str, deadline: float) -> None:
    try:
        stream.start_tls(context, host.partition("%")[0], deadline)
    except TimeoutError:
        raise TimeoutError("no end of the TLS handshake") from None
    except ssl.SSLError as error:
        raise _HandshakeError(_text(error)) from error


def _read(stream: Stream, answer: http1.AnswerReader, deadline: float) -> None:
    """Feed what comes until the answer is complete."""
    while not answer.complete:
        data = stream.receive(deadline)
        if data:
            answer.feed(data)
            continue
        answer.finish()
        if not answer.complete:
            what = "within its answer" if answer.started else "without an answer"
            raise ConnectionResetError(f"the receiver closed the connection {what}")


def _host_header(target: Target) -> str:
    """RFC 9110, section 7.2: without the scheme's own port, and without the zone of a link-local address."""
    host = f"[{target.host.partition('%')[0]}]" if ":" in target.host else target.host
    return host if target.port == (443 if target.tls else 80) else f"{host}:{target.port}"


def _text(error: BaseException) -> str:
    """What an error says, without its number."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        if error.reason == "WRONG_VERSION_NUMBER":
            return "the receiver does not speak TLS"
        return (error.reason or error.strerror or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _explained(error: Exception, target: Target, timeout_seconds: float, conceal: Conceal) -> Outcome | None:
    """The outcome of an attempt that got no answer; None for an error that neither network nor collector made.

    All are tried again: the specification wants it where there was no connection or no answer, certificates are renewed, and a
    wrong port is put right by the one who reads the log.
    """
    where = target.authority
    if isinstance(error, CancelledError):
        return Outcome("retry", "closed", "the transport was closed during the request")
    if isinstance(error, TimeoutError):
        what = error.args[0] if len(error.args) == 1 else "no answer"
        return Outcome("retry", "timeout", f"{where}: {what} within {timeout_seconds:g} s")
    reason = {
        _ProxyError: "proxy",
        _HandshakeError: "tls",
        http1.NotHttpError: "not_http",
        socket.gaierror: "name_resolution",
    }.get(type(error))
    if reason is None and isinstance(error, OSError):
        reason = "tls" if isinstance(error, ssl.SSLError) else "connection"
    if reason is None:
        return None
    return Outcome("retry", reason, f"{where}: {otlp_responses.words(_text(error), conceal)}")
