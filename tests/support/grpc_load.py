"""Many short gRPC calls: a server and a client, each a process, that count what they answered and what they were told.

``grpc_load.py serve HOST:PORT`` prints ``ready`` and, when its input ends, lines of JSON: ``[method, status, how often]``.
``grpc_load.py call HOST:PORT MANY`` makes so many calls of all methods and prints the same.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

SERVICE = "shop.Orders"
STATUSES = {
    "Get": "OK",
    "List": "OK",
    "Find": "NOT_FOUND",
    "Pay": "FAILED_PRECONDITION",
    "Break": "INTERNAL",
    "Watch": "OK",
}
"""The methods, and how each is answered; Watch answers with a stream."""

AT_ONCE = 20
CHANNELS = 2


def counts(text: str) -> Counter[tuple[str, str]]:
    """What a process printed."""
    return Counter({(method, status): often for method, status, often in map(json.loads, text.splitlines())})


def print_counts(done: Counter[tuple[str, str]]) -> None:
    for (method, status), often in sorted(done.items()):
        sys.stdout.write(json.dumps([method, status, often]) + "\n")


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio has no types
    """Bytes in, bytes out."""

    def __init__(self) -> None:
        self.done: Counter[tuple[str, str]] = Counter()

    def service(self, call: Any) -> Any:
        method = call.method.rpartition("/")[2]
        status = STATUSES[method]

        async def answer(request: bytes, context: Any) -> bytes:
            self.done[method, status] += 1
            if status != "OK":
                await context.abort(getattr(grpc.StatusCode, status), "details")
            return request

        async def watch(request: bytes, _: Any) -> AsyncIterator[bytes]:
            self.done[method, status] += 1
            for _number in range(3):
                yield request * 2

        if method == "Watch":
            return grpc.unary_stream_rpc_method_handler(watch)
        return grpc.unary_unary_rpc_method_handler(answer)


async def serve(address: str) -> None:
    """Answers until the input ends."""
    handlers = Handlers()
    server = grpc.aio.server(handlers=[handlers])
    server.add_insecure_port(address)
    await server.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(5)
    print_counts(handlers.done)


async def call(address: str, many: int) -> None:
    """Makes so many calls, a few at once on each of two connections."""
    done: Counter[tuple[str, str]] = Counter()
    numbers = iter(range(many))
    methods = list(STATUSES)

    async def worker(channel: Any) -> None:
        unary = {method: channel.unary_unary(f"/{SERVICE}/{method}") for method in methods}
        watch = channel.unary_stream(f"/{SERVICE}/Watch")
        for number in numbers:
            method = methods[number % len(methods)]
            metadata = (("authorization", f"Bearer {number}"),) if number % 3 else ()
            try:
                if method == "Watch":
                    async for _ in watch(b"x" * 50, metadata=metadata):
                        pass
                else:
                    await unary[method](b"x" * (number % 300), metadata=metadata)
                done[method, "OK"] += 1
            except grpc.RpcError as error:
                done[method, error.code().name] += 1

    # A pool of its own for each channel, so that each is a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    await asyncio.gather(*[worker(channel) for channel in channels for _ in range(AT_ONCE // CHANNELS)])
    for channel in channels:
        await channel.close()
    print_counts(done)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[2]) if sys.argv[1] == "serve" else call(sys.argv[2], int(sys.argv[3])))
