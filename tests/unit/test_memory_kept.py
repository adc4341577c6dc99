"""Memory of batches is kept while they follow each other, and given back when they do not: counted in page faults of a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from otel_netmon.selfmon.memory import Keeping, give_back_early

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def blocks():
    before = faults()
    for _ in range(211):
        b"x" * 200_000
    return faults() - before

assert give_back_early()
keeping = Keeping()
print(blocks())
keeping.busy()
keeping.cycle()
blocks()
print(blocks())
keeping.cycle()
print(blocks())
"""
PAGES = 211 * (200_000 // 4096)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library without mallopt gives back by itself"
)
def test_pages_are_kept_while_there_are_batches_that_cannot_wait() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    at_rest, busy, again = map(int, done.stdout.split())
    assert at_rest >= PAGES
    assert busy < PAGES // 100
    assert again >= PAGES
