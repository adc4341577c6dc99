"""One request of HTTP/1 and its response, while they are read."""

from __future__ import annotations

from otel_netmon.analysis.http_records import HttpRequest, Outcome
from otel_netmon.analysis.tcp_followers import ConnectionInfo
from otel_netmon.decode.http1_heads import RequestHead


class Answer:
    """A final response.

    Attributes:
        status: None of HTTP/0.9.
        upgrade: of a response 101.
        exchange: the request it was paired with.
        is_over: its end was seen.
        is_cut: where it ends cannot be known.
    """

    __slots__ = ("body_octets", "exchange", "first_ns", "is_cut", "is_over", "last_ns", "status", "upgrade")

    def __init__(self, status: int | None, first_ns: int, last_ns: int) -> None:
        self.status = status
        self.exchange: Exchange | None = None
        self.first_ns = first_ns
        self.last_ns = last_ns
        self.body_octets = 0
        self.is_over = self.is_cut = False
        self.upgrade: str | None = None


class Exchange:
    """A request and what is known of its response.

    Attributes:
        interim: the statuses of interim responses.
        is_sent: the request's end was seen.
        is_told: it was told before its response came.
        is_unfinished: its direction ended inside the head.
    """

    __slots__ = (
        "answer",
        "head",
        "interim",
        "is_sent",
        "is_told",
        "is_unfinished",
        "request_body_octets",
        "request_first_ns",
        "request_last_ns",
    )

    def __init__(self, head: RequestHead, first_ns: int, last_ns: int) -> None:
        self.head = head
        self.request_first_ns = first_ns
        self.request_last_ns = last_ns
        self.request_body_octets = 0
        self.is_sent = self.is_unfinished = self.is_told = False
        self.answer: Answer | None = None
        self.interim: list[int] = []

    @property
    def may_change_protocol(self) -> bool:
        """Whether what follows the response may be no HTTP/1 any more."""
        return self.head.method == "CONNECT" or bool(self.head.fields.upgrade)

    @property
    def was_refused(self) -> bool:
        """Whether the client asked before it sent the body and was told a final status (RFC 9110, section 10.1.1)."""
        return (
            self.head.fields.expects_continue
            and self.answer is not None
            and not self.is_sent
            and not self.request_body_octets
            and 100 not in self.interim
        )

    def record(self, connection: ConnectionInfo, outcome: Outcome, end_ns: int) -> HttpRequest:
        """The record of it, end_ns is when its outcome was there."""
        head, answer = self.head, self.answer
        fields = head.fields
        return HttpRequest(
            version=head.version,
            client=connection.client,
            server=connection.server,
            method=head.method,
            target=head.target,
            host=fields.host,
            status=answer.status if answer is not None else None,
            outcome=outcome,
            request_first_ns=self.request_first_ns,
            request_last_ns=self.request_last_ns,
            response_first_ns=answer.first_ns if answer is not None else None,
            response_last_ns=answer.last_ns if answer is not None else None,
            request_body_octets=self.request_body_octets,
            response_body_octets=answer.body_octets if answer is not None else 0,
            interim=tuple(self.interim),
            traceparent=fields.traceparent,
            tracestate=fields.tracestate,
            is_grpc=fields.is_grpc,
            unknown=unknown_fields(head),
            upgrade=answer.upgrade if answer is not None else None,
            end_ns=end_ns,
            connection=connection,
        )


def unknown_fields(head: RequestHead) -> tuple[str, ...]:
    """Names of attributes of ``HttpRequest`` that may have stood where the head is not known."""
    if head.is_whole:
        return ()
    fields = head.fields
    values = {"host": fields.host, "traceparent": fields.traceparent, "tracestate": fields.tracestate}
    missing = tuple([name for name, value in values.items() if value is None])
    return ("target", "version", *missing) if head.cut_line else missing
