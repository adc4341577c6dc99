"""Starts the servers of this folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.netns import NetNs

PORT = 8099

_FOLDER = Path(__file__).parent

Kind = Callable[[Path], list[str]]


def python(_: Path) -> list[str]:
    return [str(shutil.which("python3")), str(_FOLDER / "server.py"), str(PORT)]


def node(_: Path) -> list[str]:
    return [_needed("node"), str(_FOLDER / "server.js"), str(PORT)]


def go(folder: Path) -> list[str]:
    program = folder / "server"
    environment = {**os.environ, "GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod"}
    command = [_needed("go"), "build", "-o", str(program), str(_FOLDER / "server.go")]
    subprocess.run(command, check=True, env=environment, cwd=folder, timeout=240)
    return [str(program), str(PORT)]


def java(_: Path) -> list[str]:
    return [
        _needed("java"),
        "-XX:+UseSerialGC",
        "-Dsun.net.httpserver.nodelay=true",
        str(_FOLDER / "Server.java"),
        str(PORT),
    ]


@contextmanager
def server(kind: Kind, where: NetNs, address: str) -> Iterator[Callable[[], list[list[str]]]]:
    """A server on PORT; gives what gives the lines that it has written so far, in words."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        lines = folder / "lines"
        with lines.open("wb") as out:
            process = subprocess.Popen(where.command(*kind(folder)), stdout=out)
        try:
            deadline = time.monotonic() + 60
            while not reaches(where, address):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield lambda: [line.split() for line in lines.read_text().splitlines()]
        finally:
            process.kill()
            process.wait()


def _needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def reaches(where: NetNs, address: str) -> bool:
    """Whether somebody listens on PORT."""
    with where.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex((address, PORT)) == 0
