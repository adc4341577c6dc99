"""Loads of HTTP/1 and HTTP/2 by tools of the field, with as many requests as are wanted, and nginx that logs each.

Paths are those of ``http_servers``: /s/STATUS/SIZE/KIND/..., answered with that status and so many octets, in chunks (kind ``c``) or
with a length (``l``).
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from support.http_servers.running import PORT, reaches
from support.netns import NetNs

ROUTES = "/s/{status}/{size}/{kind}/users/{id},POST /s/{status}/{size}/{kind}/{rest...}"
"""Rules of the configuration that know some of the paths."""

CONNECTIONS = 5

_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
_STATUSES = (200, 201, 204, 304, 404, 500)
_STATUSES_OF_WRK = (200, 201, 202, 302, 404, 500)
_SIZES = (0, 1, 300, 2000, 50_000)
_NAMES = ("users/{}", "items/{}/parts", "users/{}/orders")
_BODY = {"POST": 700, "PUT": 9000, "PATCH": 1}

Key = tuple[str, str, str]


class Logged(NamedTuple):
    """A request as its server logs it; ``took_ns`` as exact as the server is."""

    method: str
    status: str
    path: str
    took_ns: int
    traceparent: str

    @property
    def key(self) -> Key:
        """Method, status and route."""
        parts = self.path.split("/")
        route = ""
        if len(parts) == 7 and parts[5] == "users":
            route = "/s/{status}/{size}/{kind}/users/{id}"
        elif self.method == "POST":
            route = "/s/{status}/{size}/{kind}/{rest...}"
        return self.method, self.status, route


Log = Callable[[], list[Logged]]


def logged(words: list[list[str]]) -> list[Logged]:
    """What servers of ``http_servers`` have written."""
    return [Logged(line[0], line[1], line[2], int(line[3]), line[4]) for line in words]


def counts(log: list[Logged]) -> Counter[Key]:
    """Requests by method, status and route."""
    return Counter(each.key for each in log)


def request(number: int) -> tuple[str, str]:
    """Method and path of this request of ``wrk`` and ``curl``."""
    status, size = _STATUSES[number % 6], _SIZES[number % 5]
    name = _NAMES[number // 7 % 3].format(number)
    return _METHODS[number % 7], f"/s/{status}/{size}/{'cl'[number // 3 % 2]}/{name}"


# ------------------------------------------------------------------------------------------------------------ clients
_WRK = """
local methods = {{{methods}}}
local statuses = {{{statuses}}}
local sizes = {{{sizes}}}
local names = {{{names}}}
local bodies = {{{bodies}}}
local sent, promised, answered = -1, 0, 0

function request()
  local n = sent
  if n < 0 then -- wrk tries it once
    sent = 0
    return wrk.format()
  end
  sent = sent + 1
  local method = methods[n % 7 + 1]
  local path = string.format("/s/%d/%d/%s/" .. names[math.floor(n / 7) % 3 + 1], statuses[n % 6 + 1], sizes[n % 5 + 1],
    string.sub("cl", math.floor(n / 3) % 2 + 1, math.floor(n / 3) % 2 + 1), n)
  local fields = {{ ["traceparent"] = string.format("00-%032x-%016x-01", n + 1, n + 1), ["Cookie"] = "session=" .. n }}
  local body = bodies[method] and string.rep("b", bodies[method])
  return wrk.format(method, path, fields, body)
end

function delay()
  if promised >= {many} then return 1000000000 end
  promised = promised + 1
  return 0
end

function response()
  answered = answered + 1
  if answered >= {many} then -- wrk itself ends when its time is up
    print("answered", answered)
    os.exit(0)
  end
end
"""


def wrk(where: NetNs, address: str, many: int, folder: Path, *, connections: int = CONNECTIONS) -> None:
    """So many requests, each with a traceparent whose span is its number and 1 more.

    They are those of ``request`` less HEAD, 204 and 304, behind which wrk waits for a body.
    """
    script = folder / "load.lua"

    def quoted(each: object) -> str:
        return ", ".join(f'"{value}"' for value in each)  # type: ignore[attr-defined]

    script.write_text(
        _WRK.format(
            methods=quoted("GET" if method == "HEAD" else method for method in _METHODS),
            statuses=", ".join(map(str, _STATUSES_OF_WRK)),
            sizes=", ".join(map(str, _SIZES)),
            names=quoted(name.replace("{}", "%d") for name in _NAMES),
            bodies=", ".join(f"{method} = {octets}" for method, octets in _BODY.items()),
            many=many,
        )
    )
    output = where.run(
        *("wrk", "-t1", f"-c{connections}", "-d600s", "--timeout", "60s", "-s", str(script), f"http://{address}:{PORT}")
    )
    assert f"answered\t{many}" in output, output


def curl(where: NetNs, address: str, many: int, folder: Path) -> None:
    """So many requests on one connection after the other, each of the 42 kinds in a run."""
    kinds = [request(number) for number in range(42)]
    lines = []
    for place, (method, path) in enumerate(kinds):
        often = many // len(kinds) + (place < many % len(kinds))
        if not often:
            continue
        paths = re.sub(rf"/{place}(?=/|$)(?!.*/{place}(?=/|$))", f"/[1-{often}]", path)
        lines += [f'url = "http://{address}:{PORT}{paths}?token=secret"', "output = /dev/null", "silent"]
        lines += ["head"] if method == "HEAD" else [f"request = {method}"]
        if method in _BODY:
            lines += [f'data = "{"b" * _BODY[method]}"']
            lines += ['header = "Expect: 100-continue"'] * (method == "PUT" and place % 2)
        lines += ["next"]
    script = folder / "load.curl"
    script.write_text("\n".join(lines[:-1]))
    where.run("curl", "-K", str(script))


def h2load(where: NetNs, address: str, many: int, folder: Path, *options: str) -> None:
    """So many GETs of the paths of ``request``; ``--h1`` for HTTP/1."""
    urls = folder / "urls"
    urls.write_text("".join(f"http://{address}:{PORT}{request(number)[1]}\n" for number in range(210)))
    output = where.run("h2load", "-n", str(many), f"-c{CONNECTIONS}", *options, "-i", str(urls))
    assert f"{many} done, " in output, output
    assert " 0 errored, 0 timeout" in output, output


# ------------------------------------------------------------------------------------------------------------- server
_NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format told '$request_method $status $uri $request_time $http_traceparent';
  access_log {folder}/access.log told;
  keepalive_requests 10000000; client_body_buffer_size 64k; types {{ }}
  {temporary}
  server {{
    listen {address}:{port}{version};
    {locations}
  }}
}}
"""


@contextmanager
def nginx(where: NetNs, address: str, folder: Path, *, http2: bool = False) -> Iterator[Log]:
    """Serves the paths on PORT, always with a length; gives what gives what it has logged."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    locations = "\n".join(
        f'location ~ ^/s/{status}/{size}/ {{ return {status} "{"x" * min(size, 3000)}"; }}'
        for status in sorted({*_STATUSES, *_STATUSES_OF_WRK})
        for size in _SIZES
    )
    log, configuration = folder / "access.log", folder / "nginx.conf"
    configuration.write_text(
        _NGINX.format(
            folder=folder,
            temporary=" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
            address=address,
            port=PORT,
            version=" http2" if http2 else "",
            locations=locations,
        )
    )
    folder.chmod(0o755)
    running = where.start("nginx", "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log"))
    try:
        deadline = time.monotonic() + 20
        while not reaches(where, address):
            assert running.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield lambda: [_of_nginx(line.split()) for line in log.read_text().splitlines()]
    finally:
        running.terminate()
        running.wait()


def _of_nginx(words: list[str]) -> Logged:
    return Logged(words[0], words[1], words[2], round(float(words[3]) * 1e9), words[4])
