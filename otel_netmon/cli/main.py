"""Entry of the command line: find the command, import its module alone, run it, turn errors into exit codes.

Exit codes: 0 ok, 1 failed, 2 usage, 69 the kernel lacks it, 77 no permission, 78 bad configuration, 130 interrupted,
141 the reader of standard output went away.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Protocol, cast

from otel_netmon import __version__
from otel_netmon.errors import NetmonError, UsageError

PROGRAM = "otel-netmon"
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


class Command(NamedTuple):
    """One command: its name, the module that has it, and one line of help."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("run", "otel_netmon.cli.run", "observe this host and export until stopped"),
    Command("check", "otel_netmon.cli.check", "validate the configuration and say what would run"),
    Command(
        "print-config",
        "otel_netmon.cli.print_config",
        "print the configuration in effect with the origin of each value",
    ),
    Command("schema", "otel_netmon.cli.schema", "print the JSON Schema of the configuration file"),
    Command(
        "doctor", "otel_netmon.cli.doctor", "try what this kernel and machine allow, with a remedy for what is missing"
    ),
    Command("probes", "otel_netmon.cli.probes", "list the probes, their hooks and their metrics"),
    Command("top", "otel_netmon.cli.top", "show live rates and the largest flows"),
    Command("explain", "otel_netmon.cli.explain", "tell why: which attribute uses up the budget of series"),
    Command(
        "replay", "otel_netmon.cli.replay", "send a capture file through the same programs and print what they see"
    ),
    Command("version", "otel_netmon.cli.version", "print versions"),
)


class CommandModule(Protocol):
    """What a module of ``otel_netmon.cli`` has to offer to be a command."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments of the command; ``parser.description`` is the module's first docstring line."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it. Returns the exit code; an expected failure is a NetmonError."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are UsageErrors, and which knows no abbreviated options.

    An abbreviation that works today breaks a script on the day an option with the same beginning is added.
    """

    def __init__(self, prog: str, description: str | None = None, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving the process."""
        hint = self._suggest(message)
        raise UsageError(message + hint, f"see {self.prog} --help")

    def _suggest(self, message: str) -> str:
        start = "unrecognized arguments: "
        if not message.startswith(start):
            return ""
        wrong = message[len(start) :].split(maxsplit=1)[0].partition("=")[0]
        meant = _nearest(wrong, self._option_string_actions) if wrong.startswith("-") else None
        return f", did you mean {meant}?" if meant else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None takes ``sys.argv``.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except NetmonError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return code


def report(error: NetmonError) -> None:
    """Print an expected failure to standard error, one ``otel-netmon: error:`` for each line of the message."""
    for line in str(error).splitlines():
        print(f"{PROGRAM}: error: {line}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[0] == "help":
            return _dispatch([arguments[1], "--help"])
        print(_overview(), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else UsageError.exit_code
    if arguments[0] in ("-V", "--version"):
        print(f"{PROGRAM} {__version__}")
        return 0
    command = next((command for command in COMMANDS if command.name == arguments[0]), None)
    if command is None:
        raise _unknown(arguments[0])
    module = cast(CommandModule, importlib.import_module(command.module))
    description = (sys.modules[command.module].__doc__ or command.help).strip()
    parser = Parser(f"{PROGRAM} {command.name}", description)
    module.add_arguments(parser)
    try:
        parsed = parser.parse_args(arguments[1:])
    except SystemExit as done:  # --help
        return int(done.code or 0)
    return module.run(parsed)


def _overview() -> str:
    width = max(len(command.name) for command in COMMANDS)
    lines = [
        f"usage: {PROGRAM} COMMAND [ARGUMENTS]",
        "",
        "The network traffic of this Linux host as OpenTelemetry metrics, counted by eBPF.",
        "",
        "commands:",
        *(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS),
        "",
        f"{PROGRAM} COMMAND --help tells more. Data goes to standard output, messages to standard error.",
    ]
    return "\n".join(lines) + "\n"


def _unknown(name: str) -> UsageError:
    if name.startswith("-"):
        return UsageError(f"unknown option {name!r} before the command", f"see {PROGRAM} --help")
    meant = _nearest(name, [command.name for command in COMMANDS])
    return UsageError(
        f"unknown command {name!r}" + (f", did you mean {meant}?" if meant else ""), f"see {PROGRAM} --help"
    )


def _nearest(name: str, candidates: Sequence[str] | dict[str, argparse.Action]) -> str | None:
    import difflib  # only when there is an error to explain

    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return found[0] if found else None
