"""What each side of a TLS handshake has said so far: RFC 8446, section 4; RFC 5246, section 7.4."""

from __future__ import annotations

from otel_netmon.decode.tls import Records
from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.decode.tls_handshake import HandshakeMessage, Handshakes, KeyExchange, certificates, key_exchange
from otel_netmon.decode.tls_hello import ClientHello, ServerHello, decode_server_hello
from otel_netmon.decode.tls_numbers import HandshakeType, is_tls13


class Side:
    """What was seen of one direction.

    Attributes:
        records, handshakes: what its octets are taken apart by.
        changed_ns: its ChangeCipherSpec; sealed_ns: its first record of application data, which in TLS 1.3 is whatever
            is sealed. None without.
        has_gap: octets are missing.
        ended: it sent FIN or RST.
        taken: octets so far.
    """

    __slots__ = ("changed_ns", "ended", "handshakes", "has_gap", "records", "sealed_ns", "taken")

    def __init__(self) -> None:
        self.records = Records()
        self.handshakes = Handshakes()
        self.changed_ns: int | None = None
        self.sealed_ns: int | None = None
        self.has_gap = self.ended = False
        self.taken = 0

    def seals_since(self, is_13: bool) -> int | None:
        """When it had begun to seal what it sends; None before."""
        return self.sealed_ns if is_13 or self.changed_ns is None else self.changed_ns

    @property
    def octets(self) -> int:
        """How many octets it keeps."""
        return self.records.octets + self.handshakes.octets


class ServerFlight:
    """What a server has said in the clear.

    Attributes:
        hello: its ServerHello; retry: a HelloRetryRequest.
        hello_ns: the first of them.
        chain: its certificates, DER.
        exchange: its ServerKeyExchange.
        asked: it asked for a certificate; stapled: it sent a CertificateStatus; is_done: its ServerHelloDone was there.
    """

    __slots__ = ("asked", "chain", "exchange", "hello", "hello_ns", "is_done", "retry", "stapled")

    def __init__(self) -> None:
        self.hello: ServerHello | None = None
        self.retry: ServerHello | None = None
        self.hello_ns: int | None = None
        self.chain: list[bytes] = []
        self.exchange: KeyExchange | None = None
        self.asked = self.stapled = self.is_done = False

    @property
    def is_13(self) -> bool:
        """Whether TLS 1.3 was chosen: there ChangeCipherSpec means nothing (RFC 8446, appendix D.4)."""
        return self.retry is not None or (self.hello is not None and is_tls13(self.hello.version))

    @property
    def group(self) -> int | None:
        """The group of the key exchange."""
        chosen = self.hello or self.retry
        group = chosen.group if chosen is not None else None
        return self.exchange.group if group is None and self.exchange is not None else group

    def take(self, message: HandshakeMessage, time_ns: int) -> None:
        """Takes a message."""
        kind = message.type
        if kind in (HandshakeType.SERVER_HELLO, HandshakeType.HELLO_RETRY_REQUEST):
            self._take_hello(message, time_ns)
        elif kind == HandshakeType.CERTIFICATE:
            self.take_certificates(message)
        elif kind == HandshakeType.SERVER_KEY_EXCHANGE:
            if self.hello is not None and self.exchange is None:
                self.exchange = key_exchange(message.body, cipher_name(self.hello.cipher), self.hello.version)
        elif kind == HandshakeType.CERTIFICATE_REQUEST:
            self.asked = True
        elif kind == HandshakeType.CERTIFICATE_STATUS:
            self.stapled = True
        elif kind == HandshakeType.SERVER_HELLO_DONE:
            self.is_done = True

    def take_certificates(self, message: HandshakeMessage) -> None:
        """Takes a Certificate message, or what there is of it."""
        if not self.chain:
            self.chain = certificates(message.body)

    def is_resumed(self, hello: ClientHello, side: Side) -> bool | None:
        """Whether it took up a session or key from before; None where that cannot be told.

        Args:
            hello: what it answers.
            side: its direction.
        """
        answer = self.hello
        if answer is None:
            return None
        if is_tls13(answer.version):
            return answer.has_psk
        if self.chain or self.is_done:
            return False
        if answer.session_id and answer.session_id == hello.session_id:
            return True
        return True if side.changed_ns is not None and not side.has_gap else None

    def _take_hello(self, message: HandshakeMessage, time_ns: int) -> None:
        hello = decode_server_hello(message.body, of_drafts=message.type == HandshakeType.HELLO_RETRY_REQUEST)
        if not isinstance(hello, ServerHello) or self.hello is not None:
            return
        if self.hello_ns is None:
            self.hello_ns = time_ns
        if hello.is_retry:
            self.retry = hello
        else:
            self.hello = hello
