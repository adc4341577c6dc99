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


MASKED = """
import sys
import numpy as np
from otel_netmon.selfmon.lazy import without_masked_arrays
without_masked_arrays()
assert np.unique([3, 1, 3]).tolist() == [1, 3]
assert np.isin(np.arange(9), [2, 5, 10**9, 7, 1, 0]).sum() == 5
assert "numpy.ma.core" not in sys.modules
import numpy.ma
masked = np.ma.masked_array([1, 2, 2], [True, False, False])
print(np.unique(masked), numpy.ma.masked_array is np.ma.masked_array, np.ma.is_masked(masked))
"""


def test_masked_arrays_are_loaded_by_who_uses_one() -> None:
    done = subprocess.run([sys.executable, "-c", MASKED], capture_output=True, text=True, check=True)
    assert done.stdout == "[2 --] True True\n"


def test_the_pipeline_does_not_load_what_it_does_not_need() -> None:
    """Each of these costs megabytes in every agent (docs/decisions/0075-memory.md)."""
    listing = "import sys\nimport otel_netmon.selfmon.logging, otel_netmon.pipeline\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio.events", "google.protobuf", "grpc", "prometheus_client", "pyroute2", "requests", "rich.console"}
    heavy |= {"secrets", "urllib3", "yaml", "numpy.random", "cryptography"}
    assert heavy & set(loaded) == set()
    assert not [name for name in loaded if name.startswith("opentelemetry")]
