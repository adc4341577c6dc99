"""A TLS handshake as most are, told from octets in order; what is not as most are is left to ``TlsFollower``, which tells the same."""

from __future__ import annotations

from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.analysis.tls import SEALED_ALERT_OCTETS
from otel_netmon.analysis.tls_alike import AlikeHellos, KnownClient, KnownServer
from otel_netmon.analysis.tls_handshakes import TlsHandshake
from otel_netmon.decode.tls import RECORD_OCTETS_MAX
from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.decode.tls_handshake import MESSAGE_OCTETS_MAX, KeyExchange, certificates, key_exchange
from otel_netmon.decode.tls_numbers import ContentType, HandshakeType, is_tls13
from otel_netmon.decode.x509 import Certificate, RefusedCertificate

_HANDSHAKE, _CHANGE, _SEALED = (
    int(ContentType.HANDSHAKE),
    int(ContentType.CHANGE_CIPHER_SPEC),
    int(ContentType.APPLICATION_DATA),
)
_CERTIFICATE, _CLIENT_HELLO, _SERVER_HELLO, _EXCHANGE, _REQUEST, _STATUS, _DONE = (
    int(HandshakeType.CERTIFICATE),
    int(HandshakeType.CLIENT_HELLO),
    int(HandshakeType.SERVER_HELLO),
    int(HandshakeType.SERVER_KEY_EXCHANGE),
    int(HandshakeType.CERTIFICATE_REQUEST),
    int(HandshakeType.CERTIFICATE_STATUS),
    int(HandshakeType.SERVER_HELLO_DONE),
)
_NEW_SESSION_TICKET, _CERTIFICATE_VERIFY, _CLIENT_KEY_EXCHANGE = 4, 15, 16
_OF_CLIENTS = frozenset((_CERTIFICATE, _CERTIFICATE_VERIFY, _CLIENT_KEY_EXCHANGE))
_MAY_SPAN = frozenset((_CLIENT_HELLO, _SERVER_HELLO, _CERTIFICATE, _EXCHANGE))


class Unlike(Exception):
    """A handshake that is not as most are."""


class WholeHandshake:
    """One handshake, segment by segment.

    Args:
        alike: where hellos and chains are read.

    Attributes:
        is_over: whether both sides seal what they send.
    """

    __slots__ = (
        "_alike",
        "_answer",
        "_answer_ns",
        "_asked",
        "_chain",
        "_changed",
        "_client_certificates",
        "_client_ns",
        "_exchange",
        "_hello",
        "_hello_ns",
        "_is_13",
        "_is_done",
        "_last_ns",
        "_messages",
        "_octets",
        "_sealed",
        "_stapled",
        "is_over",
    )

    def __init__(self, alike: AlikeHellos) -> None:
        self._alike = alike
        self._octets = [b"", b""]  # of a record that is not whole; of the server, of the client
        self._messages = [b"", b""]  # of a handshake message that is not
        self._hello: KnownClient | None = None
        self._answer: KnownServer | None = None
        self._hello_ns = self._last_ns = 0
        self._answer_ns: int | None = None
        self._client_ns: int | None = None
        self._is_13 = self._asked = self._stapled = self._is_done = self.is_over = False
        self._chain: tuple[Certificate | RefusedCertificate, ...] | None = None
        self._exchange: KeyExchange | None = None
        self._client_certificates: int | None = None
        self._changed: list[int | None] = [None, None]
        self._sealed: list[int | None] = [None, None]

    def feed(self, from_client: bool, data: bytes, time_ns: int) -> None:
        """Takes the octets of the next segment.

        Raises:
            Unlike: a follower has to tell.
        """
        if self._octets[from_client]:
            data = self._octets[from_client] + data
        at, size = 0, len(data)
        changed = self._changed
        while size - at >= 5:
            kind, length = data[at], data[at + 3] << 8 | data[at + 4]
            begin, end = at + 5, at + 5 + length
            if data[at + 1] != 3 or not 0 < length <= RECORD_OCTETS_MAX:
                raise Unlike
            if kind == _SEALED:
                self._seal(from_client, length, size > begin, time_ns)
                at = size
                break
            if kind not in (_HANDSHAKE, _CHANGE):
                raise Unlike
            if end > size:
                break
            if kind == _HANDSHAKE:
                if changed[from_client] is None:
                    self._take(from_client, data[begin:end], time_ns)
            elif self._answer is None or length != 1:
                raise Unlike
            elif not self._is_13 and changed[from_client] is None:
                changed[from_client] = time_ns
                if from_client and self._client_ns is None:
                    self._client_ns = time_ns
            self._last_ns = time_ns
            at = end
        self._octets[from_client] = data[at:]
        sealed = self._sealed if self._is_13 else changed
        self.is_over = sealed[0] is not None and sealed[1] is not None

    def handshake(self, info: ConnectionInfo) -> TlsHandshake:
        """What is known of it when it is over."""
        hello, answer = self._hello, self._answer
        if hello is None or answer is None:
            raise Unlike
        chain = self._chain or ()
        sealed = self._sealed if self._is_13 else self._changed
        chosen = answer.hello
        exchange = self._exchange
        return TlsHandshake(
            connection=info,
            hello=hello.hello,
            answer=chosen,
            ja3=hello.ja3,
            ja3s=answer.ja3s,
            ja4=hello.ja4,
            start_ns=self._hello_ns,
            answer_ns=self._answer_ns,
            client_ns=self._client_ns,
            finished_ns=max(time_ns for time_ns in sealed if time_ns is not None),
            both_sealed=True,
            end_ns=self._last_ns,
            retried=False,
            resumed=chosen.has_psk if self._is_13 else not (chain or self._is_done),
            group=exchange.group if chosen.group is None and exchange is not None else chosen.group,
            exchange=exchange,
            chain=chain,
            chain_length=len(chain),
            asked_for_certificate=self._asked,
            client_certificates=self._client_certificates,
            stapled=self._stapled,
            alerts=(),
            outcome="established",
            failed_by_client=None,
        )

    def _seal(self, from_client: bool, length: int, goes_on: bool, time_ns: int) -> None:
        """Takes the header of the first record of application data, which is the last that the kernel tells of a direction."""
        if self._answer is None or goes_on:
            raise Unlike
        self._last_ns = time_ns
        if not self._is_13:
            if self._changed[from_client] is None:
                raise Unlike
            return
        if length in SEALED_ALERT_OCTETS or self._sealed[from_client] is not None:
            raise Unlike
        self._sealed[from_client] = time_ns
        if from_client and self._client_ns is None:
            self._client_ns = time_ns

    def _take(self, from_client: bool, octets: bytes, time_ns: int) -> None:
        """Takes the octets of a record with handshake messages in the clear."""
        if self._messages[from_client]:
            octets = self._messages[from_client] + octets
        at, size = 0, len(octets)
        while size - at >= 4:
            kind, length = octets[at], octets[at + 1] << 16 | octets[at + 2] << 8 | octets[at + 3]
            end = at + 4 + length
            if end > size or length > MESSAGE_OCTETS_MAX:
                if kind not in _MAY_SPAN or length > MESSAGE_OCTETS_MAX:
                    raise Unlike
                break
            if from_client:
                self._of_client(kind, octets[at + 4 : end], time_ns)
            else:
                self._of_server(kind, octets[at + 4 : end], time_ns)
            at = end
        self._messages[from_client] = octets[at:]

    def _of_client(self, kind: int, body: bytes, time_ns: int) -> None:
        if self._hello is None:
            hello = self._alike.client(body) if kind == _CLIENT_HELLO else None
            if not isinstance(hello, KnownClient):
                raise Unlike
            self._hello, self._hello_ns = hello, time_ns
            return
        if self._answer is None or self._is_13 or kind not in _OF_CLIENTS:
            raise Unlike
        if self._client_ns is None:
            self._client_ns = time_ns
        if kind == _CERTIFICATE and self._client_certificates is None:
            self._client_certificates = len(certificates(body))

    def _of_server(self, kind: int, body: bytes, time_ns: int) -> None:
        answer = self._answer
        if answer is None:
            read = self._alike.server(body) if kind == _SERVER_HELLO and self._hello is not None else None
            if not isinstance(read, KnownServer) or read.hello.is_retry:
                raise Unlike
            self._answer, self._answer_ns, self._is_13 = read, time_ns, is_tls13(read.hello.version)
        elif self._is_13:
            raise Unlike
        elif kind == _CERTIFICATE and self._chain is None:
            self._chain = self._alike.chain(body)
        elif kind == _EXCHANGE and self._exchange is None:
            self._exchange = key_exchange(body, cipher_name(answer.hello.cipher), answer.hello.version)
        elif kind == _REQUEST:
            self._asked = True
        elif kind == _STATUS:
            self._stapled = True
        elif kind == _DONE:
            self._is_done = True
        elif kind != _NEW_SESSION_TICKET:
            raise Unlike
