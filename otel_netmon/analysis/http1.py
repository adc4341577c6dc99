"""Requests of HTTP/1 and their responses, out of the octets of one connection: RFC 9112, section 9."""

from __future__ import annotations

from collections import Counter, deque

from otel_netmon.analysis.http1_exchange import Answer, Exchange
from otel_netmon.analysis.http2 import Http2Follower
from otel_netmon.analysis.http_records import Outcome
from otel_netmon.analysis.tcp_followers import ANEW, ConnectionInfo, Follower, Recogniser
from otel_netmon.decode.http1 import Begin, Content, End, Fault, Http1Reader
from otel_netmon.decode.http1_heads import RequestHead, ResponseHead, begins_request, request_body, response_body

OPEN_MAX = 1024
"""Requests without a response on one connection; of more the oldest is given up."""

_EARLY_MAX = 64
_HELD_OCTETS_MAX = 1 << 16
_HELD_PIECES_MAX = 4
_WEBSOCKET = b"websocket"


def recogniser(counts: Counter[str], timeout_ns: int | None = None) -> Recogniser:
    """Gives how HTTP/1 is recognised and followed; what goes wrong is added to the counts."""
    return Recogniser("http1", begins_request, lambda info: Http1Follower(info, counts, timeout_ns))


class Http1Follower(Follower):
    """Pairs the requests of one connection with their responses, by their order.

    A response that was seen before its request (one direction waited for octets that were missing) waits for one that was
    sent before it; other responses without a request are counted and dropped. Where responses may be missing, the next one
    is that of the last request before it: few clients send one before the response to the one before. But where octets came
    meanwhile that may have been of any, and several requests wait, nobody can tell whose it is.

    Args:
        info: the connection.
        counts: takes what went wrong: the reasons of ``decode.http1.Fault``, ``unmatched_response``, ``pipeline_full``,
            ``unfinished_request`` (its head never ended and nobody answered it: it was not made).
        timeout_ns: silence of both sides after which requests that nobody has begun to answer are told; None: the end of
            the connection. They keep their places in the order of the responses.
    """

    __slots__ = (
        "_answer",
        "_answer_first_ns",
        "_counts",
        "_early",
        "_ended",
        "_exchange",
        "_held",
        "_info",
        "_is_finishing",
        "_is_opaque",
        "_is_reset",
        "_may_miss",
        "_now_ns",
        "_open",
        "_request_first_ns",
        "_requests",
        "_responses",
        "_seen_ns",
        "_timeout_ns",
        "_waits_for",
    )

    def __init__(self, info: ConnectionInfo, counts: Counter[str], timeout_ns: int | None = None) -> None:
        super().__init__()
        self._info = info
        self._counts = counts
        self._timeout_ns = timeout_ns
        self._requests = Http1Reader(is_request=True, begun=info.begun)
        self._responses = Http1Reader(is_request=False, begun=info.begun)
        self._open: deque[Exchange] = deque()  # in the order of the requests
        self._exchange: Exchange | None = None  # whose request is being read
        self._request_first_ns = 0
        self._answer: Answer | None = None  # that is being read
        self._answer_first_ns = 0
        self._early: deque[Answer] = deque()
        self._may_miss = False
        self._waits_for: Exchange | None = None  # until its response says whether the client goes on with HTTP
        self._held: list[tuple[bytes, int]] = []  # what the client sent meanwhile
        self._seen_ns = [0, 0]  # the last octets of the server, of the client
        self._now_ns = 0  # the last end of a direction
        self._ended = [False, False]  # the server's direction, the client's
        self._is_reset = False
        self._is_finishing = False
        self._is_opaque = False

    @property
    def done(self) -> bool:
        """As of ``Follower``."""
        return self._is_opaque or all(self._ended)

    @property
    def _is_waiting(self) -> bool:
        return self._waits_for is not None

    @property
    def octets(self) -> int:
        """As of ``Follower``."""
        return self._requests.octets + self._responses.octets + sum([len(data) for data, _ in self._held])

    def data(self, from_client: bool, data: bytes, time_ns: int) -> None:
        """As of ``Follower``."""
        if not from_client:
            self._take_response(data, time_ns)
        elif self._is_waiting:
            self._held.append((data, time_ns))
            self._look_at_held()
        else:
            self._take_request(data, time_ns)

    def gap(self, from_client: bool, octets: int, time_ns: int) -> None:
        """As of ``Follower``."""
        if from_client:
            self._go_on()
            self._requests.gap(octets)
            self._read_requests(time_ns)
        else:
            self._responses.gap(octets)
            self._read_responses(time_ns)
            self._may_miss |= not self._responses.is_in_step

    def end(self, from_client: bool, time_ns: int, reset: bool) -> None:
        """As of ``Follower``."""
        self._now_ns = time_ns
        if from_client and self._held:
            self._hand_over()
            return
        self._ended[from_client] = True
        self._is_reset |= reset
        if not reset:
            reader = self._requests if from_client else self._responses
            reader.end()
            if from_client:
                self._end_requests()
            else:
                self._read_responses(self._seen_ns[False])
        if not from_client or all(self._ended):
            self._close("reset" if self._is_reset else "no_response")

    def advance(self, now_ns: int) -> None:
        """As of ``Follower``: tells what nobody has begun to answer for too long."""
        if self._timeout_ns is None or not self._open or max(self._seen_ns) > now_ns - self._timeout_ns:
            return
        for exchange in self._open:
            if exchange.answer is None and not exchange.is_told:
                exchange.is_told = True
                self.records.append(exchange.record(self._info, "timeout", now_ns))

    def finish(self, time_ns: int) -> None:
        """As of ``Follower``."""
        self._now_ns = time_ns
        self._go_on()
        self._is_finishing = True
        self._requests.end()
        self._end_requests()
        self._responses.end()
        self._read_responses(self._seen_ns[False])
        self._close("reset" if self._is_reset else "no_response" if self._ended[False] else "timeout")

    # ------------------------------------------------------------------------------------------------- from the client
    def _take_request(self, data: bytes, time_ns: int) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.was_refused and begins_request(data):
            # It asked whether to send the body, was told the final status instead, and did not send it.
            self._requests.expect(0)
            self._read_requests(time_ns)
        self._seen_ns[True] = time_ns
        self._requests.feed(data)
        self._read_requests(time_ns)

    def _read_requests(self, time_ns: int) -> None:
        reader = self._requests
        while (event := reader.next()) is not None:
            exchange = self._exchange
            if isinstance(event, Content):
                if exchange is not None:
                    exchange.request_last_ns = time_ns
                    exchange.request_body_octets += event.octets
            elif isinstance(event, RequestHead):
                self._begin_exchange(event, time_ns)
                reader.expect(request_body(event))
            elif isinstance(event, End):
                if exchange is not None:
                    self._exchange = None
                    exchange.is_sent = True
                    self._tell_if_over(exchange)
                    if exchange.may_change_protocol and exchange.answer is None and not begins_request(reader.rest):
                        self._waits_for = exchange
                        if rest := reader.take_rest():
                            self._held.append((rest, time_ns))
                        return
            elif isinstance(event, Begin):
                self._request_first_ns = time_ns
            elif isinstance(event, Fault):
                self._counts[event.reason] += 1

    def _end_requests(self) -> None:
        before = self._exchange
        self._read_requests(self._seen_ns[True])
        exchange = self._exchange
        if exchange is not None:
            exchange.is_unfinished = exchange is not before
            exchange.is_sent = True  # as far as it will be
            self._tell_if_over(exchange)

    def _begin_exchange(self, head: RequestHead, time_ns: int) -> None:
        first_ns = self._request_first_ns
        exchange = self._exchange = Exchange(head, first_ns, time_ns)
        while self._early:
            answer = self._early.popleft()
            if answer.first_ns >= first_ns:
                exchange.answer = answer
                answer.exchange = exchange
                break
            self._counts["unmatched_response"] += 1
        self._open.append(exchange)
        if len(self._open) > OPEN_MAX:
            self._counts["pipeline_full"] += 1
            self._tell(self._open[0], "incomplete")

    def _look_at_held(self) -> None:
        """What comes behind a request that may change the protocol is a request or is kept until the response is there."""
        while self._held and begins_request(b"".join([data for data, _ in self._held])):
            self._go_on()
        if len(self._held) >= _HELD_PIECES_MAX or sum([len(data) for data, _ in self._held]) > _HELD_OCTETS_MAX:
            # The response will not be seen: it is another protocol by what the client says.
            self._hand_over()

    def _go_on(self) -> None:
        """The client goes on with HTTP."""
        held, self._held, self._waits_for = self._held, [], None
        for index, (data, time_ns) in enumerate(held):
            if self._is_waiting:
                self._held += held[index:]
                return
            self._take_request(data, time_ns)

    # ------------------------------------------------------------------------------------------------- from the server
    def _take_response(self, data: bytes, time_ns: int) -> None:
        reader = self._responses
        waiting = self._unanswered()
        if waiting is not None and waiting.head.version == "0.9" and self._answer is None and data[:5] != b"HTTP/":
            self._begin_answer(Answer(None, time_ns, time_ns), waiting)
            reader.expect_headless()
        self._seen_ns[False] = time_ns
        reader.may_begin = waiting is not None
        reader.feed(data)
        self._read_responses(time_ns)

    def _read_responses(self, time_ns: int) -> None:
        reader = self._responses
        while (event := reader.next()) is not None:
            answer = self._answer
            if isinstance(event, Content):
                if answer is not None:
                    answer.last_ns = time_ns
                    answer.body_octets += event.octets
            elif isinstance(event, ResponseHead):
                self._read_response_head(event, time_ns)
                if self._is_opaque or self.successor is not None:
                    return
            elif isinstance(event, End):
                self._answer = None
                if answer is not None and not self._is_finishing:
                    self._end_answer(answer)
            elif isinstance(event, Begin):
                self._answer_first_ns = time_ns
            elif isinstance(event, Fault):
                self._counts[event.reason] += 1
                if answer is not None:
                    answer.is_cut = True

    def _read_response_head(self, head: ResponseHead, time_ns: int) -> None:
        exchange = self._answered_by_next()
        if exchange is None:
            # A server may answer a head that it cannot, or will not, read to its end.
            self._requests.cut()
            self._read_requests(self._seen_ns[True])
            exchange = self._unanswered()
        self._may_miss = self._responses.has_strayed = False
        body = response_body(head, exchange.head if exchange is not None else None)
        if head.status < 200 and head.status != 101:
            if exchange is not None:
                exchange.interim.append(head.status)
            self._responses.expect(body)
            return
        answer = Answer(head.status, self._answer_first_ns, time_ns)
        answer.is_cut = not head.is_whole
        self._begin_answer(answer, exchange)
        self._responses.expect(body)
        if body == "opaque":
            self._answer = None
            self._change_protocol(answer, head, time_ns)
        elif exchange is not None and exchange is self._waits_for:
            self._go_on()

    def _unanswered(self) -> Exchange | None:
        """The first request without a response."""
        return next((exchange for exchange in self._open if exchange.answer is None), None)

    def _answered_by_next(self) -> Exchange | None:
        """The request whose response begins; where responses may be missing, those that wait before it are given up."""
        if not self._may_miss:
            return self._unanswered()
        waiting = [exchange for exchange in self._open if exchange.answer is None]
        sent = [exchange for exchange in waiting if exchange.request_first_ns <= self._answer_first_ns] or waiting[:1]
        is_known = len(sent) == 1 or not self._responses.has_strayed
        for exchange in sent[:-1] if is_known else sent:
            self._tell(exchange, "incomplete")
        return sent[-1] if sent and is_known else None

    def _begin_answer(self, answer: Answer, exchange: Exchange | None) -> None:
        self._answer = answer
        answer.exchange = exchange
        if exchange is not None:
            exchange.answer = answer
        else:
            self._early.append(answer)
            if len(self._early) > _EARLY_MAX:
                self._early.popleft()
                self._counts["unmatched_response"] += 1

    def _end_answer(self, answer: Answer) -> None:
        answer.is_over = True
        if answer.exchange is not None:
            self._tell_if_over(answer.exchange)

    def _change_protocol(self, answer: Answer, head: ResponseHead, time_ns: int) -> None:
        exchange = answer.exchange
        if head.status == 101:
            # A server that says nothing goes over to what the client asked for.
            asked = exchange.head.fields.upgrade if exchange is not None else ()
            answer.upgrade = next((each.decode("ascii", "replace") for each in head.fields.upgrade + asked), "")
        self._end_answer(answer)
        if rest := self._responses.take_rest():
            self.rest.append((False, rest, time_ns))
        if answer.upgrade == "websocket":
            self._is_opaque = True
            self._close("incomplete")
        elif answer.upgrade == "h2c" and exchange is not None:
            request = exchange.record(self._info, "answered", time_ns)
            self._hand_over(Http2Follower(self._info, self._counts, request, timeout_ns=self._timeout_ns))
        else:
            self._hand_over()

    def _hand_over(self, successor: Follower | None = None) -> None:
        """Gives the connection to this follower; None: what it speaks now has to be recognised."""
        self.successor = ANEW if successor is None else successor
        self.rest += [(True, data, time_ns) for data, time_ns in self._held]
        self._held = []
        self._close("no_response" if self._ended[False] else "timeout")

    # ------------------------------------------------------------------------------------------------------- what is told
    def _tell_if_over(self, exchange: Exchange) -> None:
        answer = exchange.answer
        if answer is not None and answer.is_over and exchange.is_sent:
            self._tell(exchange, "incomplete" if answer.is_cut else "answered")

    def _tell(self, exchange: Exchange, outcome: Outcome) -> None:
        self._open.remove(exchange)
        if exchange is self._waits_for:
            self._waits_for = None
        if exchange is self._exchange:
            self._exchange = None
        if not exchange.is_told:
            self.records.append(exchange.record(self._info, outcome, max(self._now_ns, *self._seen_ns)))

    def _close(self, outcome: Outcome) -> None:
        """Tells all that is open: what was not answered with this outcome."""
        for exchange in list(self._open):
            answer = exchange.answer
            if answer is None and exchange.is_unfinished:
                self._open.remove(exchange)
                self._counts["unfinished_request"] += 1
            elif answer is None or (outcome == "reset" and not answer.is_over):
                self._tell(exchange, outcome)
            else:
                self._tell(exchange, "answered" if answer.is_over and not answer.is_cut else "incomplete")
        if self._early:
            self._counts["unmatched_response"] += len(self._early)
            self._early.clear()
