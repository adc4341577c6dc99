"""The command line's entry: commands, exit codes, messages."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from otel_netmon import __version__, errors
from otel_netmon.cli import main as entry
from otel_netmon.cli.main import COMMANDS, Command, main


def without_coverage() -> dict[str, str]:
    """The environment without what starts a coverage measurement in a child, with imports of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def command_that(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int) -> None:
    """Put a command ``test`` into the table that ends in this way."""
    module = types.ModuleType("otel_netmon.cli.test_command", "End as told.")

    def run(_: object) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module.add_arguments = lambda parser: parser.add_argument("--duration", type=float)  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(entry, "COMMANDS", (*COMMANDS, Command("test", module.__name__, "end")))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_of_the_table_is_there(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(command.module)
    assert list(inspect.signature(module.run).parameters) == ["args"]
    assert main([command.name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: otel-netmon {command.name}")
    assert (module.__doc__ or "").strip().splitlines()[0] in text


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command.name} " in text and command.help in text for command in COMMANDS)


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: otel-netmon COMMAND")


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "schema"]) == 0
    assert capsys.readouterr().out.startswith("usage: otel-netmon schema")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chekc"], "unknown command 'chekc', did you mean check?; see otel-netmon --help"),
        (["zzzzz"], "unknown command 'zzzzz'; see otel-netmon --help"),
        (["--config"], "unknown option '--config' before the command; see otel-netmon --help"),
        (
            ["check", "--jsno"],
            "unrecognized arguments: --jsno, did you mean --json?; see otel-netmon check --help",
        ),
        (["check", "--js"], "unrecognized arguments: --js, did you mean --json?; see otel-netmon check --help"),
        (["check", "extra"], "unrecognized arguments: extra; see otel-netmon check --help"),
        (["check", "--config"], "argument --config: expected one argument; see otel-netmon check --help"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"otel-netmon: error: {message}\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NetmonError("it failed", "do this"), 1),
        (errors.UsageError("it failed", "do this"), 2),
        (errors.KernelLacksError("it failed", "do this"), 69),
        (errors.PrivilegeError("it failed", "do this"), 77),
        (errors.ConfigError("it failed", "do this"), 78),
    ],
)
def test_an_expected_failure_is_one_line_and_an_exit_code(
    error: errors.NetmonError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(monkeypatch, error)
    assert main(["test"]) == code
    assert capsys.readouterr() == ("", "otel-netmon: error: it failed; do this\n")


def test_each_line_of_a_failure_is_marked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command_that(monkeypatch, errors.ConfigError("a:1:1: x\na:2:1: y"))
    assert main(["test"]) == 78
    assert capsys.readouterr().err == "otel-netmon: error: a:1:1: x\notel-netmon: error: a:2:1: y\n"


def test_an_unexpected_failure_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that(monkeypatch, ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError):
        main(["test"])


def test_an_interrupt_is_130_and_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command_that(monkeypatch, KeyboardInterrupt())
    assert main(["test"]) == 130
    assert capsys.readouterr() == ("", "")


def test_the_exit_code_of_a_command_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that(monkeypatch, 23)
    assert main(["test"]) == 23


def test_a_reader_that_went_away_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "otel_netmon", "schema"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_command_imports_itself_alone() -> None:
    program = (
        "import sys; from otel_netmon.cli.main import main; main(['version', '--json']);"
        "print([n for n in ('yaml', 'msgspec', 'numpy', 'structlog', 'otel_netmon.cli.run') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=without_coverage()
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"otel-netmon {__version__}\n"
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["otel-netmon"] == __version__
    assert versions["kernel"] == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert main(["version"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name:<12} {value}" for name, value in versions.items()]
