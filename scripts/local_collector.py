"""The OpenTelemetry Collector in a wheel (rotel) that `make run` and the tests start on loopback."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "collector-config" / "rotel.env"


def rotel_command() -> list[str]:
    """The collector's own binary: importing the Python package would start another one from its environment."""
    spec = importlib.util.find_spec("rotel")
    if spec is None or not spec.submodule_search_locations:
        msg = "the package rotel is not installed; remedy: pip install -e '.[test]'"
        raise FileNotFoundError(msg)
    return [str(Path(spec.submodule_search_locations[0]) / "rotel-agent"), "start"]


def rotel_environment(configuration: Path = CONFIGURATION) -> dict[str, str]:
    """The variables of an environment file: one NAME=VALUE a line, `#` begins a comment line."""
    variables: dict[str, str] = {}
    for number, line in enumerate(configuration.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, value = line.partition("=")
        if not separator or not name.startswith("ROTEL_"):
            msg = f"{configuration}:{number}: not ROTEL_NAME=VALUE: {line}"
            raise ValueError(msg)
        variables[name] = value
    return variables
