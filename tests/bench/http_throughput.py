"""What the agent takes from a server's throughput: wrk against nginx, flat out, with and without it, as interleaved pairs.

    python -m bench.http_throughput --pairs 15 --seconds 3

The agent stands at the server's end of a veth pair with all that is on by default; without means that no agent runs. Which of both
comes first changes from pair to pair. The interval is that of Student's t over the logarithms of the ratios. Every request must be
counted. Needs root, nginx and wrk.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.http import PORT, REQUESTS, nginx
from support.agent import Agent, agent
from support.netns import NetNs, veth_pair

CONNECTIONS = 8
SECONDS_TO_TELL = 60.0
T_95 = {5: 2.571, 7: 2.365, 9: 2.262, 11: 2.201, 14: 2.145, 19: 2.093, 24: 2.064, 29: 2.045}
"""Of Student's distribution, two-sided, by degrees of freedom; the next smaller one is used."""


def wrk(client: NetNs, address: str, seconds: int) -> tuple[int, float]:
    """How many requests were answered, and how many a second."""
    output = client.run("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://{address}:{PORT}/b/c")
    done, rate = re.search(r"(\d+) requests in", output), re.search(r"Requests/sec:\s+([\d.]+)", output)
    if done is None or rate is None or "Socket errors" in output:
        raise RuntimeError(f"wrk does not tell what it did: {output}")
    return int(done[1]), float(rate[1])


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The ratio and its 95 % confidence interval."""
    logarithms = [math.log(each) for each in ratios]
    middle = statistics.fmean(logarithms)
    freedom = max(each for each in T_95 if each <= len(ratios) - 1)
    half = T_95[freedom] * statistics.stdev(logarithms) / math.sqrt(len(ratios))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def uncounted(running: Agent, before: int, done: int) -> int:
    """How many of the requests that wrk saw answered are not told; those that it had open at its end may be told besides."""
    running.wait(lambda: running.total(REQUESTS) - before >= done, SECONDS_TO_TELL, f"{done} requests")
    told = running.total(REQUESTS, http_response_status_code="200") - before
    return max(0, done - told) + max(0, told - done - CONNECTIONS)


def main() -> int:
    """Prints the figures as JSON; 1 where a request was not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.pairs <= min(T_95):
        parser.error(f"more than {min(T_95)} pairs")
    rates: dict[bool, list[float]] = {True: [], False: []}
    missing = requests = 0
    with tempfile.TemporaryDirectory() as text, veth_pair() as (left, right, pair):
        folder, address = Path(text), pair.right_address
        folder.chmod(0o755)
        options = ["--interface", pair.right, "--set", f"interfaces.namespaces={right.name}"]
        with nginx(right, address, folder):
            wrk(left, address, 1)
            for number in range(arguments.pairs):
                for is_on in (True, False) if number % 2 else (False, True):
                    with ExitStack() as stack:
                        running = stack.enter_context(agent(*options)) if is_on else None
                        before = running.total(REQUESTS) if running is not None else 0
                        done, rate = wrk(left, address, arguments.seconds)
                        rates[is_on].append(rate)
                        if running is not None:
                            missing += uncounted(running, before, done)
                            requests += done
    ratio, low, high = interval([on / off for on, off in zip(rates[True], rates[False], strict=True)])
    print(
        json.dumps(
            {
                "pairs": arguments.pairs,
                "requests/s without, median": round(statistics.median(rates[False])),
                "requests/s with, median": round(statistics.median(rates[True])),
                "throughput with / without": round(ratio, 4),
                "95 % confidence interval": [round(low, 4), round(high, 4)],
                "spread without: least, most": [round(min(rates[False])), round(max(rates[False]))],
                "requests with the agent": requests,
                "of these not counted": missing,
            },
            indent=1,
        )
    )
    return 0 if missing == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
