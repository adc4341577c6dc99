"""The parent's side of the compiler child: whom it asks, what it hands over, and what it makes of failures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_netmon.errors import ImageError
from otel_netmon.kernel import compiler, image

Interpreter = Callable[[str], str]


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    """Makes a program that stands in for a Python with bcc; its body is shell, run when it is to compile."""

    def make(body: str) -> str:
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo True; exit 0; fi\n{body}\n')
        path.chmod(0o755)
        return str(path)

    return make


# -------------------------------------------------------------------------------------------------------------- finding it
def test_an_interpreter_is_asked_whether_it_has_bcc(interpreter: Interpreter, tmp_path: Path) -> None:
    assert compiler.find_interpreter(interpreter("exit 1")) == str(tmp_path / "python")
    assert compiler.find_interpreter("/bin/false") is None
    assert compiler.find_interpreter("/bin/true") is None, "it exits 0 and says nothing"
    assert compiler.find_interpreter(str(tmp_path / "absent")) is None
    assert compiler.find_interpreter(str(tmp_path)) is None, "a folder"
    (tmp_path / "text").write_text("no program of this machine")
    (tmp_path / "text").chmod(0o755)
    assert compiler.find_interpreter(str(tmp_path / "text")) is None


def test_a_configured_interpreter_is_the_only_one_asked(
    monkeypatch: pytest.MonkeyPatch, interpreter: Interpreter
) -> None:
    with_bcc = interpreter("exit 1")
    monkeypatch.setattr(compiler, "INTERPRETERS", (with_bcc,))
    assert compiler.find_interpreter(None) == with_bcc
    assert compiler.find_interpreter("/bin/false") is None


def test_without_bcc_anywhere_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "INTERPRETERS", ("/bin/false", str(tmp_path / "absent")))
    assert compiler.find_interpreter(None) is None
    with pytest.raises(ImageError, match=r"tc_monitor\.c and there is no bcc") as caught:
        compiler.compile_image(tmp_path, "tc_monitor", {}, tmp_path / "out.json")
    assert "python3-bpfcc" in caught.value.remedy


def test_this_interpreter_comes_before_that_of_the_system() -> None:
    assert list(compiler.INTERPRETERS) == [sys.executable, "/usr/bin/python3"]


# ------------------------------------------------------------------------------------------------------------ the request
def test_the_child_gets_one_request_and_finds_the_package(interpreter: Interpreter, tmp_path: Path) -> None:
    shipped = image.SHIPPED / "xdp_monitor.json"
    output = tmp_path / "out.json"
    stand_in = interpreter(
        f'echo "$@" > {tmp_path}/arguments; echo "$PYTHONPATH" > {tmp_path}/path; cat > {tmp_path}/request; cp {shipped} {output}'
    )
    made = compiler.compile_image(tmp_path / "bpf", "xdp_monitor", {"SIZE": 3}, output, stand_in)
    assert made == image.load(shipped)
    assert (tmp_path / "arguments").read_text() == "-m otel_netmon.kernel.compiler\n"
    assert (tmp_path / "path").read_text() == f"{image.PACKAGE.parent}\n"
    assert json.loads((tmp_path / "request").read_text()) == {
        "sources": str(tmp_path / "bpf"),
        "name": "xdp_monitor",
        "constants": {"SIZE": 3},
        "output": str(output),
    }


# --------------------------------------------------------------------------------------------------------------- failures
def test_the_words_of_a_child_that_failed_are_told(interpreter: Interpreter, tmp_path: Path) -> None:
    stand_in = interpreter("cat > /dev/null; echo 'packet.h:3:1: error: \xe9' >&2; exit 1")
    with pytest.raises(ImageError, match=r"compiling tc_monitor\.c failed: packet\.h:3:1: error"):
        compiler.compile_image(tmp_path, "tc_monitor", {}, tmp_path / "out.json", stand_in)


def test_only_the_end_of_many_words_is_told(interpreter: Interpreter, tmp_path: Path) -> None:
    stand_in = interpreter("cat > /dev/null; yes warning | head -n 5000 >&2; echo the end >&2; exit 1")
    with pytest.raises(ImageError, match="the end") as caught:
        compiler.compile_image(tmp_path, "tc_monitor", {}, tmp_path / "out.json", stand_in)
    assert len(caught.value.message) < 4200


def test_a_child_that_says_it_succeeded_and_did_not_is_told(interpreter: Interpreter, tmp_path: Path) -> None:
    stand_in = interpreter("cat > /dev/null")
    with pytest.raises(ImageError, match="wrote no image"):
        compiler.compile_image(tmp_path, "tc_monitor", {}, tmp_path / "out.json", stand_in)
    stand_in = interpreter(f"cat > /dev/null; echo nothing > {tmp_path}/out.json")
    with pytest.raises(ImageError, match="damaged program image"):
        compiler.compile_image(tmp_path, "tc_monitor", {}, tmp_path / "out.json", stand_in)


def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, interpreter: Interpreter, tmp_path: Path) -> None:
    stand_in = interpreter("exec sleep 600")
    monkeypatch.setattr(compiler, "DEADLINE_SECONDS", 1)
    with pytest.raises(ImageError, match="took more than 1 s"):
        compiler.compile_image(tmp_path, "tc_monitor", {}, tmp_path / "out.json", stand_in)


# ------------------------------------------------------------------------------------------------------------- flattening
def test_quoted_includes_are_put_in_place_once(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "a.h").write_text('#include "b.h"\nint a;\n')
    (tmp_path / "include" / "b.h").write_text("int b;\n")
    (tmp_path / "main.c").write_text('#include <stdio.h>\n#include "a.h"\n#include "b.h"\nint main;\n')
    assert compiler.flatten(tmp_path, "main").splitlines() == [
        '#line 1 "main.c"',
        "#include <stdio.h>",
        '#line 1 "include/a.h"',
        '#line 1 "include/b.h"',
        "int b;",
        '#line 2 "include/a.h"',
        "int a;",
        '#line 3 "main.c"',
        "int main;",
    ]


@pytest.mark.parametrize("name", sorted(image.SOURCES))
def test_the_sources_flatten_to_one_file_without_loss(name: str) -> None:
    sources = image.source_directory()
    text = compiler.flatten(sources, name)
    assert '#include "' not in text
    included = set(re.findall(r'^#line 1 "include/(.*)"', text, re.MULTILINE))
    parser = {"packet.h", "late.h"} if name != "drop_monitor" else set()
    assert {"netmon_abi.h"} | parser <= included
    for header in included:
        for line in (sources / "include" / header).read_text().splitlines():
            assert line.startswith('#include "') or line in text
