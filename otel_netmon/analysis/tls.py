"""TLS handshakes out of TCP connections: RFC 8446, RFC 5246, RFC 6101."""

from __future__ import annotations

from collections.abc import Callable

from otel_netmon.analysis.tcp_followers import ConnectionInfo, Follower, Recogniser
from otel_netmon.analysis.tls_certificates import Certificates
from otel_netmon.analysis.tls_flights import ServerFlight, Side
from otel_netmon.analysis.tls_handshakes import Alert, Outcome, TlsHandshake
from otel_netmon.decode.tls import SSL2_HELLO, Record, Records, begins_tls
from otel_netmon.decode.tls_fingerprints import ja3, ja3s, ja4
from otel_netmon.decode.tls_handshake import HandshakeMessage, certificates
from otel_netmon.decode.tls_hello import ClientHello, decode_client_hello, decode_ssl2_client_hello
from otel_netmon.decode.tls_numbers import ALERT_FATAL, ALERT_WARNING, ContentType, HandshakeType

PROTOCOL = "tls"

_CLOSE_NOTIFY = 0
_ALERT_OCTETS = 2
SEALED_ALERT_OCTETS = (11, 19)
"""A sealed alert of TLS 1.3: level, description, content type, and a tag of 8 or 16 octets. What finishes a handshake is
longer: a Finished has 32 octets and more."""


class TlsFollower(Follower):
    """Follows one connection until both sides seal what they send, or one of them ends it.

    Args:
        info: the connection.
        known: where certificates are read.
        over: called when it is done, once.

    Attributes:
        began_ns: the first octets.
    """

    __slots__ = (
        "_alerts",
        "_client",
        "_client_certificates",
        "_client_ns",
        "_closed_by_client",
        "_done",
        "_flight",
        "_hello",
        "_hello_ns",
        "_info",
        "_known",
        "_last_ns",
        "_over",
        "_server",
        "began_ns",
    )

    def __init__(
        self, info: ConnectionInfo, known: Certificates, over: Callable[[TlsFollower], None] | None = None
    ) -> None:
        super().__init__()
        self.began_ns: int | None = None
        self._over = over
        self._info = info
        self._known = known
        self._client, self._server = Side(), Side()
        self._flight = ServerFlight()
        self._hello: ClientHello | None = None
        self._hello_ns = self._last_ns = 0
        self._client_ns: int | None = None
        self._closed_by_client: bool | None = None
        self._client_certificates: int | None = None
        self._alerts: list[Alert] = []
        self._done = False

    @property
    def done(self) -> bool:
        """Whether the handshake is over, or none."""
        return self._done

    @property
    def octets(self) -> int:
        """How many octets it keeps."""
        return sum([len(der) for der in self._flight.chain]) + self._client.octets + self._server.octets

    @property
    def _is_ssl2(self) -> bool:
        """Whether the hello was in the form of SSL 2: then the answer may be of SSL 2 as well, which is not followed."""
        return self._hello is not None and self._hello.is_ssl2

    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        """Takes the next octets of a direction."""
        side = self._client if from_client else self._server
        side.taken += len(data)
        if self.began_ns is None:
            self.began_ns = time_ns
        for record in side.records.feed(data):
            if self._done:
                return
            self._last_ns = time_ns
            self._record(from_client, side, record, time_ns)
        if side.records.is_none and not self._done:
            self._no_records(from_client, side, time_ns)
        self._look_whether_sealed()

    def gap(self, from_client: bool, octets: int, time_ns: int) -> None:
        """Takes that octets were never seen."""
        side = self._client if from_client else self._server
        side.has_gap = True
        partial, own = side.records.gap(octets)
        if partial is None or partial.type != ContentType.HANDSHAKE or side.changed_ns is not None:
            if own < octets:
                side.handshakes.gap(None)
            return
        self._messages(from_client, side.handshakes.feed(partial.data), time_ns)
        cut = side.handshakes.gap(octets if own == octets else None)
        if cut is not None and cut.type == HandshakeType.CERTIFICATE and not from_client:
            self._flight.take_certificates(cut)

    def end(self, from_client: bool, time_ns: int, reset: bool) -> None:
        """Takes the FIN or RST of a direction."""
        if self._done:
            return
        side = self._client if from_client else self._server
        side.ended = True
        self._last_ns = time_ns
        left_before = self._closed_by_client is not None
        if not left_before:
            self._closed_by_client = from_client
        if reset and not left_before:
            self._finish("reset", from_client)
        elif reset or (self._client.ended and self._server.ended):
            self._finish_early()

    def finish(self, time_ns: int) -> None:  # noqa: ARG002 — the last packet's time is known
        """Takes that nothing more comes."""
        if not self._done:
            self._finish_early()

    def time_out(self, now_ns: int, octets_max: int) -> None:
        """Takes that it was waited for too long.

        Args:
            octets_max: of each direction, what there is to be seen at most.
        """
        owing = [side for side in (self._client, self._server) if not self._is_sealed(side)]
        if any(side.has_gap or side.taken >= octets_max for side in owing):
            self._finish("incomplete", None)
        elif self._closed_by_client is not None:
            self._finish_early()
        else:
            self._last_ns = now_ns
            self._finish("timed_out", self._client in owing and self._flight.hello_ns is not None)

    def _finish_early(self) -> None:
        """Ends it before both sides seal, by nothing that was said: somebody left, unless something was not seen."""
        lost = any(side.has_gap and not self._is_sealed(side) for side in (self._client, self._server))
        if lost or self._closed_by_client is None:
            self._finish("incomplete", None)
        else:
            self._finish("closed", self._closed_by_client)

    def _record(self, from_client: bool, side: Side, record: Record, time_ns: int) -> None:
        if record.type == ContentType.HANDSHAKE:
            if side.changed_ns is None:
                self._messages(from_client, side.handshakes.feed(record.data), time_ns)
        elif record.type == ContentType.CHANGE_CIPHER_SPEC:
            if side.changed_ns is None and not self._flight.is_13:
                side.changed_ns = time_ns
                self._note_client(from_client, time_ns)
        elif record.type == ContentType.APPLICATION_DATA:
            if side.sealed_ns is None:
                side.sealed_ns = time_ns
                self._note_client(from_client, time_ns)
                self._look_for_sealed_alert(from_client, record, time_ns)
        elif record.type == ContentType.ALERT:
            self._alert(from_client, side, record, time_ns)
        elif record.type == SSL2_HELLO and from_client and self._hello is None:
            self._hello_is(decode_ssl2_client_hello(record.data), time_ns)

    def _messages(self, from_client: bool, messages: list[HandshakeMessage], time_ns: int) -> None:
        for message in messages:
            if self._done:  # by the message before, in the same record
                return
            if from_client:
                self._client_message(message, time_ns)
            else:
                self._flight.take(message, time_ns)

    def _client_message(self, message: HandshakeMessage, time_ns: int) -> None:
        if message.type == HandshakeType.CLIENT_HELLO:
            if self._hello is None:
                self._hello_is(decode_client_hello(message.body), time_ns)
            else:
                self._note_client(True, time_ns)
            return
        self._note_client(True, time_ns)
        if message.type == HandshakeType.CERTIFICATE and self._client_certificates is None:
            self._client_certificates = len(certificates(message.body))

    def _hello_is(self, hello: ClientHello | str, time_ns: int) -> None:
        if isinstance(hello, ClientHello):
            self._hello, self._hello_ns = hello, time_ns
        else:
            self._finish("incomplete", None)

    def _note_client(self, from_client: bool, time_ns: int) -> None:
        """Notes the client's answer to the server's first flight."""
        if from_client and self._client_ns is None and self._flight.hello_ns is not None:
            self._client_ns = time_ns

    def _alert(self, from_client: bool, side: Side, record: Record, time_ns: int) -> None:
        pairs = list(zip(record.data[::2], record.data[1::2], strict=False))
        in_clear = side.changed_ns is None or record.length == _ALERT_OCTETS
        if not in_clear or record.length % 2 or any(level not in (ALERT_WARNING, ALERT_FATAL) for level, _ in pairs):
            self._alerts.append(Alert(from_client, ALERT_FATAL, None, time_ns))
            return
        for level, description in pairs:
            self._alerts.append(Alert(from_client, level, description, time_ns))
            if description == _CLOSE_NOTIFY:
                self._finish("closed", from_client)
            elif level == ALERT_FATAL:
                self._finish("alert", from_client)
            if self._done:
                return

    def _look_for_sealed_alert(self, from_client: bool, record: Record, time_ns: int) -> None:
        """In TLS 1.3 the first that a client seals finishes the handshake, unless it is an alert."""
        if self._flight.hello is None or not self._flight.is_13 or record.length not in SEALED_ALERT_OCTETS:
            return
        if self._hello is not None and not (from_client and self._hello.has_early_data):
            self._alerts.append(Alert(from_client, ALERT_FATAL, None, time_ns))
            self._finish("alert", from_client)

    def _no_records(self, from_client: bool, side: Side, time_ns: int) -> None:
        """What comes is no TLS: the server's answer to a ClientHello, or something in the middle."""
        self._last_ns = time_ns
        if self._hello is None and not from_client:
            side.records = Records()  # what it said before the ClientHello is of something else
        elif not from_client and self._flight.hello_ns is None and not side.has_gap and not self._is_ssl2:
            self._finish("not_tls", from_client)
        else:
            self._finish("incomplete", None)

    def _is_sealed(self, side: Side) -> bool:
        return side.seals_since(self._flight.is_13) is not None

    def _look_whether_sealed(self) -> None:
        if self._done or self._flight.hello is None:
            return
        if self._is_sealed(self._client) and self._is_sealed(self._server):
            self._finish("established", None)

    def _finish(self, outcome: Outcome, by_client: bool | None) -> None:
        """Makes the record; the handshake is over."""
        self._done = True
        if self._over is not None:
            self._over(self)
        hello, flight = self._hello, self._flight
        if hello is None:
            return
        answer = flight.hello or flight.retry
        seen = [side.seals_since(flight.is_13) for side in (self._client, self._server)]
        sealed = [time_ns for time_ns in seen if time_ns is not None]
        self.records.append(
            TlsHandshake(
                connection=self._info,
                hello=hello,
                answer=answer,
                ja3=None if hello.is_ssl2 else ja3(hello),
                ja3s=None if answer is None else ja3s(answer),
                ja4=None if hello.is_ssl2 else ja4(hello),
                start_ns=self._hello_ns,
                answer_ns=flight.hello_ns,
                client_ns=self._client_ns,
                finished_ns=max(sealed, default=None),
                both_sealed=len(sealed) == 2,
                end_ns=self._last_ns,
                retried=flight.retry is not None,
                resumed=flight.is_resumed(hello, self._server),
                group=flight.group,
                exchange=flight.exchange,
                chain=tuple([self._known.get(der) for der in flight.chain]),
                chain_length=len(flight.chain),
                asked_for_certificate=flight.asked,
                client_certificates=self._client_certificates,
                stapled=flight.stapled,
                alerts=tuple(self._alerts),
                outcome=outcome,
                failed_by_client=by_client,
            )
        )
        flight.chain = []


def tls_recogniser(known: Certificates) -> Recogniser:
    """How TLS is recognised, on any port and behind whatever was said in clear before it."""
    make: Callable[[ConnectionInfo], Follower] = lambda info: TlsFollower(info, known)  # noqa: E731
    return Recogniser(PROTOCOL, begins_tls, make)
