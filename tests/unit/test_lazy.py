"""A stand-in for a module: nothing is loaded before something of it is used, and then it is the module."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from otel_netmon.selfmon.lazy import Late
sys.modules["asyncio"] = Late("asyncio")
import asyncio
import asyncio as again
assert "asyncio.events" not in sys.modules
async def five():
    return 5
print(asyncio.run(five()), again.run(five()))
import asyncio.queues
print(type(sys.modules["asyncio"]).__name__, asyncio.queues.Queue.__name__)
"""


def test_it_becomes_the_module_with_its_first_use() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "5 5\nmodule Queue\n"


def test_the_pipeline_does_not_load_what_it_does_not_need() -> None:
    """Each of these costs megabytes in every agent (docs/decisions/0075-memory.md)."""
    listing = "import sys\nimport otel_netmon.selfmon.logging, otel_netmon.pipeline\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio.events", "google.protobuf", "grpc", "prometheus_client", "pyroute2", "requests", "rich.console"}
    heavy |= {"secrets", "urllib3", "yaml", "numpy.random", "cryptography"}
    assert heavy & set(loaded) == set()
    assert not [name for name in loaded if name.startswith("opentelemetry")]
