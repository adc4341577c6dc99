"""A gRPC server and a client of it, each a process: what they say of their calls is a line of JSON for each.

``grpc_calls.py serve HOST:PORT`` prints ``ready``, then ``[method, status]`` of each call, until its input ends.
``grpc_calls.py call HOST:PORT`` makes the calls of CALLS and prints ``[method, status]`` as the client sees it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

SERVICE = "pkg.Service"
CALLS = {"Ok": 211, "NotFound": 13, "Nobody": 7, "Slow": 3, "Fails": 11, "Stream": 17, "Dies": 2}
"""How often each method is called; the server has no method Nobody, and the client does not wait for Slow."""

DEADLINE_S = 0.5
_told = threading.Lock()


def tell(*values: object) -> None:
    with _told:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio has no types
    """Bytes in, bytes out."""

    def service(self, call: Any) -> Any:
        method = call.method.rpartition("/")[2]
        match method:
            case "Stream":
                return grpc.stream_stream_rpc_method_handler(self.stream)
            case "Ok" | "NotFound" | "Slow" | "Fails" | "Dies":
                return grpc.unary_unary_rpc_method_handler(self.handler(method))
        tell(method, "UNIMPLEMENTED")
        return None

    def handler(self, method: str) -> Callable[[bytes, Any], bytes]:
        def handle(request: bytes, context: Any) -> bytes:
            match method:
                case "NotFound":
                    tell(method, "NOT_FOUND")
                    context.abort(grpc.StatusCode.NOT_FOUND, "secret details")
                case "Fails":
                    tell(method, "DATA_LOSS")
                    context.abort(grpc.StatusCode.DATA_LOSS, "")
                case "Slow":
                    tell(method, "DEADLINE_EXCEEDED")
                    while context.is_active():
                        time.sleep(0.01)
                case "Dies":
                    tell(method, "UNKNOWN")
                    raise ValueError("as intended")
                case _:
                    tell(method, "OK")
            return request

        return handle

    @staticmethod
    def stream(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
        for request in requests:
            yield request * 2
        tell("Stream", "OK")


def serve(address: str) -> None:
    server = grpc.server(ThreadPoolExecutor(16), [Handlers()])
    server.add_insecure_port(address)
    server.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(None).wait()


def call(address: str) -> None:
    def one(method: str) -> None:
        path = f"/{SERVICE}/{method}"
        metadata = [
            ("traceparent", "00-d52ac471b0dfbbc5bd1ac5eadcea9870-b2d76db5796e4adc-01"),
            ("authorization", "secret"),
        ]
        timeout = DEADLINE_S if method == "Slow" else 30.0
        try:
            if method == "Stream":
                sent = iter([b"x" * size for size in (0, 10, 70_000)])
                assert sum(map(len, channel.stream_stream(path)(sent, timeout=timeout, metadata=metadata))) == 140_020
            else:
                channel.unary_unary(path)(b"request", timeout=timeout, metadata=metadata)
            tell(method, "OK")
        except grpc.RpcError as error:
            tell(method, error.code().name)

    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(8) as pool:
        methods = [method for method, often in CALLS.items() for _ in range(often)]
        methods.sort(key=lambda method: hash((method, "mixed")))
        list(pool.map(one, methods))


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
