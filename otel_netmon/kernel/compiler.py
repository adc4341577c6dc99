"""The compiler child: the only importer of bcc, a process of its own that exits when the image is written.

Run as ``python -m otel_netmon.kernel.compiler`` under an interpreter that can import bcc (Debian's python3-bpfcc serves
/usr/bin/python3), with one JSON object on stdin: sources, name, constants, output. Standard library and bcc only.
``compile_image`` is the parent's side.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otel_netmon.errors import ImageError, NetmonError
from otel_netmon.kernel import image

DEADLINE_SECONDS = 60
EXIT_FILE = 3
INTERPRETERS = (sys.executable, "/usr/bin/python3")
PREPROCESSOR_FLAGS = ("-O2", "-Wno-everything")


def find_interpreter(configured: str | None) -> str | None:
    """Gives an interpreter that can import bcc: the configured one, this one, or the system's; None if none can."""
    for candidate in [configured] if configured else dict.fromkeys(INTERPRETERS):
        if candidate and os.access(candidate, os.X_OK):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # a folder, another machine's program
                found = subprocess.run(
                    [candidate, "-c", "import importlib.util as u; print(bool(u.find_spec('bcc.libbcc')))"],
                    capture_output=True,
                    check=False,
                    timeout=DEADLINE_SECONDS,
                )
                if found.stdout.strip() == b"True":
                    return candidate
    return None


def compile_image(
    sources: Path, name: str, constants: Mapping[str, int], output: Path, interpreter: str | None = None
) -> image.Image:
    """Compiles bpf/NAME.c in a child and writes the image to output.

    Args:
        sources: the folder that holds NAME.c, include/ and shim/.
        constants: macros for the preprocessor.
        interpreter: a Python that imports bcc; None looks for one.

    Raises:
        ImageError: there is no bcc, or it refused; the message ends with the compiler's own words.
    """
    python = find_interpreter(interpreter)
    if python is None:
        raise ImageError(
            f"no shipped image fits {name}.c and there is no bcc to compile it",
            "apt-get install python3-bpfcc, or set images.compiler to a Python that imports bcc",
        )
    request = {"sources": str(sources), "name": name, "constants": dict(constants), "output": str(output)}
    try:
        child = subprocess.run(
            [python, "-m", "otel_netmon.kernel.compiler"],
            input=json.dumps(request).encode(),
            capture_output=True,
            check=False,
            timeout=DEADLINE_SECONDS,
            env={**os.environ, "PYTHONPATH": str(image.PACKAGE.parent)},
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"compiling {name}.c took more than {DEADLINE_SECONDS} s") from error
    if child.returncode == EXIT_FILE:
        words = child.stderr.decode(errors="replace").strip()
        raise ImageError(f"compiling {name}.c: {words}", "set images.directory to a folder that can be written")
    if child.returncode:
        words = child.stderr.decode(errors="replace").strip()[-4000:]
        raise ImageError(f"compiling {name}.c failed: {words}", "mend the source, or remove images.sources")
    made = image.load(output)
    if made is None:
        raise ImageError(f"compiling {name}.c wrote no image to {output}")
    return made


def flatten(sources: Path, name: str) -> str:
    """Gives NAME.c with its quoted includes in place, each once: bcc rewrites map accesses in the main file only."""
    seen: set[str] = set()

    def text(path: Path) -> str:
        lines = [f'#line 1 "{path.relative_to(sources)}"']
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found = re.match(r'#include "([^"]+)"', line)
            if found is None:
                lines.append(line)
            elif found[1] not in seen:
                seen.add(found[1])
                lines += [text(sources / "include" / found[1]), f'#line {number + 1} "{path.relative_to(sources)}"']
        return "\n".join(lines)

    return text(sources / f"{name}.c") + "\n"


def _programs(module: Any, kinds: Mapping[str, int], fds: Mapping[int, int]) -> dict[str, image.Program]:
    programs = {}
    for name, kind in kinds.items():
        code = bytearray(module.dump_func(name))
        at = 0
        while at < len(code):
            if code[at] == image.LD_IMM64:
                if code[at + 1] >> 4 == image.PSEUDO_MAP_FD:
                    fd = int.from_bytes(code[at + 4 : at + 8], "little")
                    code[at + 4 : at + 8] = fds[fd].to_bytes(4, "little")
                at += 8
            at += 8
        programs[name] = image.Program(kind, bytes(code))
    return programs


def build(sources: Path, name: str, constants: Mapping[str, int]) -> image.Image:
    """Compiles with bcc in this process. Needs CAP_BPF: bcc makes the maps while it compiles."""
    os.environ["BCC_KERNEL_SOURCE"] = str(sources / "shim")
    from bcc import BPF, __version__  # type: ignore[import-not-found,unused-ignore]
    from bcc.libbcc import lib  # type: ignore[import-not-found,unused-ignore]

    kinds = image.SOURCES[name]
    flags = [*PREPROCESSOR_FLAGS, *(f"-D{k}={v}" for k, v in sorted(constants.items()))]
    module = BPF(text=flatten(sources, name), cflags=flags)
    maps = []
    fds: dict[int, int] = {}
    for number in range(lib.bpf_num_tables(module.module)):
        title = ctypes.cast(lib.bpf_table_name(module.module, number), ctypes.c_char_p).value or b""
        fds[lib.bpf_table_fd_id(module.module, number)] = number
        maps.append(
            image.MapDefinition(
                name=title.decode(),
                kind=lib.bpf_table_type_id(module.module, number),
                key_size=lib.bpf_table_key_size_id(module.module, number),
                value_size=lib.bpf_table_leaf_size_id(module.module, number),
                max_entries=lib.bpf_table_max_entries_id(module.module, number),
                flags=lib.bpf_table_flags_id(module.module, number),
            )
        )
    return image.Image(
        name=name,
        hash=image.source_hash(sources, name, constants),
        compiler=f"bcc {__version__}",
        constants=dict(constants),
        maps=tuple(maps),
        programs=_programs(module, kinds, fds),
    )


def main() -> int:
    """The child: a request on stdin, an image file as the answer."""
    request = json.load(sys.stdin)
    try:
        made = build(Path(request["sources"]), request["name"], request["constants"])
        image.save(made, Path(request["output"]))
    except OSError as error:
        print(error, file=sys.stderr)
        return EXIT_FILE
    except NetmonError as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exception; its own words are on stderr already
        print(f"bcc: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
