"""Builds the images that ship: ``python -m otel_netmon.kernel.images_build [--check]``.

Needs bcc. With --check nothing is written: exit 1 if what ships does not come from these sources.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from otel_netmon.kernel import compiler, image


def main(arguments: list[str] | None = None) -> int:
    """Compiles every image afresh and writes or compares it."""
    check = "--check" in (sys.argv[1:] if arguments is None else arguments)
    sources = image.source_directory()
    stale = []
    with tempfile.TemporaryDirectory() as folder:
        for name in image.SOURCES:
            made = compiler.compile_image(sources, name, {}, Path(folder) / f"{name}.json")
            if check:
                shipped = image.load(image.SHIPPED / f"{name}.json")
                same = shipped is not None and shipped.hash == made.hash
                print(f"{name}: {'current' if same else 'stale'}")
                stale += [] if same else [name]
            else:
                image.save(made, image.SHIPPED / f"{name}.json")
                sizes = ", ".join(f"{n} {len(p.instructions) // 8}" for n, p in sorted(made.programs.items()))
                print(f"{name}: {made.compiler}; instructions: {sizes}")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
