"""The shipped program images on Debian's other kernels, under qemu without KVM, and on the running kernel.

Fetches what is missing into .cache/kernels, boots each kernel, runs guest.py in it with the project's interpreter, and prints
a table. Exit code 1 if any check failed anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.kernels import boot, fetch, table

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RUNNING = "running"
GUEST_SECONDS = 240.0


def interpreter() -> Path:
    """The project's own, else the one that runs this."""
    own = ROOT / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def command(python: Path, folder: Path, *more: str) -> list[str]:
    return [
        "env",
        f"PYTHONPATH={ROOT}",
        f"--chdir={ROOT}",
        str(python),
        "-m",
        "scripts.kernels.guest",
        str(folder),
        *more,
    ]


def fresh_folder(cache: Path, label: str) -> Path:
    folder = cache / "results" / label
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    return folder


def read_result(folder: Path, label: str, console: str) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.exists():
        return {"label": label, "ok": False, "error": f"no result; {console}"}
    result: dict[str, Any] = json.loads(path.read_text())
    return {"label": label, **result}


def on_running_kernel(python: Path, folder: Path) -> dict[str, Any]:
    fetch.say(f"checking the running kernel {platform.release()}")
    done = subprocess.run(command(python, folder), capture_output=True, text=True, check=False)
    return read_result(folder, RUNNING, done.stderr[-800:].strip())


def in_guest(series: str, python: Path, cache: Path, guest: boot.Guest) -> dict[str, Any]:
    folder = fresh_folder(cache, series)
    kernel = fetch.kernel(cache, series)
    fetch.say(f"booting {kernel.release}")
    words = [str(HERE / "guest-init"), str(guest.directories), *command(python, folder, "--alone")]
    console = folder / "console.log"
    try:
        ended = boot.boot(kernel, boot.Run(guest, folder, words, console, GUEST_SECONDS))
    except boot.GuestError as error:
        return {"label": series, "package": kernel.package, "ok": False, "error": str(error)}
    result = read_result(folder, series, f"see {console}")
    return {**result, "package": kernel.package, "boot_seconds": ended.boot_seconds, "boots": ended.boots}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    everything = [*fetch.RELEASES, RUNNING]
    parser.add_argument("--kernels", default=",".join(everything), help=f"which of {','.join(everything)}")
    parser.add_argument("--json", action="store_true", help="print every figure and check as one JSON document")
    parser.add_argument("--write-docs", action="store_true", help="write docs/kernels.md; needs all kernels")
    arguments = parser.parse_args()
    labels: list[str] = arguments.kernels.split(",")
    unknown = [label for label in labels if label not in everything]
    if unknown:
        parser.error(f"unknown kernel {', '.join(unknown)}; known: {', '.join(everything)}")
    if arguments.write_docs and set(labels) != set(everything):
        parser.error("--write-docs needs all kernels")
    if os.geteuid() != 0:
        print("kernels: loads eBPF programs and makes network namespaces: it needs root", file=sys.stderr)
        return 77
    results = []
    try:
        fetch.install_tools()
        cache = fetch.cache_directory(ROOT)
        python = interpreter()
        if set(labels) - {RUNNING}:
            vng = fetch.virtme(cache)
            guest = boot.Guest(vng, *fetch.python_image(cache, ROOT, python))
        for label in labels:
            if label == RUNNING:
                result = on_running_kernel(python, fresh_folder(cache, RUNNING))
            else:
                result = in_guest(label, python, cache, guest)
            fetch.say(f"{label}: {'ok' if result['ok'] else 'FAILED'}")
            results.append(result)
    except fetch.FetchError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results, indent=1) if arguments.json else table.text(results), end="\n" if arguments.json else "")
    ok = all(result["ok"] for result in results)
    if arguments.write_docs and ok:
        (ROOT / "docs" / "kernels.md").write_text(table.markdown(results))
    elif arguments.write_docs:
        fetch.say("docs/kernels.md is as it was: not every check passed")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
