"""Where in a file with OpenSSL 1.1 or 3 its reads and writes can be watched, and where cheaply. x86-64.

The kernel emulates a few instructions at a uprobe (arch/x86/kernel/uprobes.c: push of a register, nop, relative call and jump);
any other it executes alone, with a trap behind it, which costs many times as much. SSL_read() and SSL_read_ex(), which mostly begin
with one of the others, both call one function inside the library, and that one saves registers first. So the way into it is
followed, where every instruction before the call is known and leaves the arguments alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from otel_netmon.decode.elf import X86_64, Elf, ElfFault, Function

What = Literal["read", "write", "new", "free", "renew"]
Shape = Literal["plain", "ex", "ex2", "sendfile"]
"""How a function tells how much: by what it returns, or where its fourth or fifth argument points to; SSL_sendfile() returns it, too."""

_NEEDED: Final = ("SSL_read", "SSL_write")
_OTHERS: Final[Mapping[str, What]] = {
    "SSL_new": "new",
    "SSL_free": "free",
    "SSL_clear": "renew",
    "SSL_set_fd": "renew",
    "SSL_set_rfd": "renew",
    "SSL_set_wfd": "renew",
}
_SENDFILE: Final = "SSL_sendfile"
NAMES: Final = (*_NEEDED, _SENDFILE, "SSL_read_ex", "SSL_write_ex", "SSL_write_ex2", *_OTHERS)

_PUSH = rb"(?:[\x50-\x57]|\x41[\x50-\x57])"
_EMULATED = re.compile(_PUSH + rb"|\x90|[\xe8\xe9\xeb]|[\x70-\x7f]|\x0f[\x80-\x8f]", re.DOTALL)
_ENDBR64 = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?")
_NO_CHANGE = re.compile(rb"(?:\xf3\x0f\x1e\xfa|\x48\x85\xff)*")
"""endbr64, and test %rdi,%rdi: behind them registers and stack are those of the call."""
_UNTOUCHED = rb"(?:\xf3\x0f\x1e\xfa|" + _PUSH + rb"|\x48\x83\xec.|\x48\x89\xe5)*"
"""endbr64, push, sub $n,%rsp, and mov %rsp,%rbp: the arguments stay as they are."""
_FLAGS = rb"(\x49\x89\xc8[\x31\x33]\xc9|[\x31\x33]\xc9\x49\x89\xc8)?"
"""mov %rcx,%r8 and xor %ecx,%ecx: from OpenSSL 3.3 on the fourth argument is flags, and what it was is the fifth."""
_WAY_IN = re.compile(_UNTOUCHED + _FLAGS + _UNTOUCHED + rb"[\xe8\xe9]", re.DOTALL)
_CALL = re.compile(rb"[\xe8\xe9]")
_WAY_IN_MAX = 32
_BODY_MAX = 1024
_CODE_OCTETS = 8


class Site(NamedTuple):
    """A place to watch.

    Attributes:
        function: whose begin it is, or who calls it.
        what: ``new``, ``free``; ``renew``: what comes next may be of another connection.
        shape: of ``read`` and ``write``.
        offset: in the file.
        code: the first octets of what is there.
        is_emulated: the kernel emulates the instruction.
    """

    function: str
    what: What
    shape: Shape
    offset: int
    code: bytes
    is_emulated: bool


def openssl_sites(elf: Elf) -> tuple[Site, ...]:
    """Gives the sites of a file; none where it has no OpenSSL, or one for another machine.

    Raises:
        ElfFault: a function lies where nothing can run.
    """
    if elf.machine != X86_64:
        return ()
    functions = elf.functions(NAMES)
    if any(name not in functions for name in _NEEDED):
        return ()
    sites = _transfers(elf, functions, "read") + _transfers(elf, functions, "write")
    if _SENDFILE in functions:
        sites.append(_site(elf, _SENDFILE, "write", "sendfile", functions[_SENDFILE].address))
    for name, what in _OTHERS.items():
        if name in functions:
            sites.append(_site(elf, name, what, "plain", functions[name].address))
    return tuple(sites)


def is_emulated(code: bytes) -> bool:
    """Whether the kernel emulates the instruction that these octets begin with."""
    return _EMULATED.match(code) is not None


def _transfers(elf: Elf, functions: Mapping[str, Function], what: Literal["read", "write"]) -> list[Site]:
    """The sites of reads or writes: the begins of all functions, or the one that all of them call where that is cheaper."""
    shapes: dict[str, Shape] = {f"SSL_{what}": "plain", f"SSL_{what}_ex": "ex", f"SSL_{what}_ex2": "ex2"}
    begins = [
        _site(elf, name, what, shape, functions[name].address) for name, shape in shapes.items() if name in functions
    ]
    if all(site.is_emulated for site in begins):
        return begins
    inner = _inner(elf, functions, what)
    return [inner] if inner is not None and inner.is_emulated else begins


def _inner(elf: Elf, functions: Mapping[str, Function], what: Literal["read", "write"]) -> Site | None:
    """The begin of the function that both forms call."""
    name = f"SSL_{what}_ex"
    if name not in functions:
        return None
    begin = functions[name].address
    way = _WAY_IN.match(elf.code(begin, _WAY_IN_MAX))
    if way is None:
        return None
    target = _target(elf, begin + way.end() - 1)
    plain = functions[f"SSL_{what}"]
    body = elf.code(plain.address, min(plain.size or _BODY_MAX, _BODY_MAX))
    if target is None or all(_target(elf, plain.address + call.start()) != target for call in _CALL.finditer(body)):
        return None
    return _site(elf, name, what, "ex" if way[1] is None else "ex2", target)


def _target(elf: Elf, address: int) -> int | None:
    """Where the relative call or jump at an address goes to; None where nothing that can run is there."""
    code = elf.code(address + 1, 4)
    if len(code) < 4:
        return None
    target = address + 5 + int.from_bytes(code, "little", signed=True)
    return target if elf.offset(target) is not None else None


def _site(elf: Elf, name: str, what: What, shape: Shape, address: int) -> Site:
    # What returns is found by the return address, which has to be on top of the stack.
    skipped = _ENDBR64 if what in ("read", "write", "new") else _NO_CHANGE
    match = skipped.match(elf.code(address, _WAY_IN_MAX))
    address += match.end() if match is not None else 0
    offset = elf.offset(address)
    if offset is None:
        raise ElfFault(f"{name} lies in no segment that can run")
    code = elf.code(address, _CODE_OCTETS)
    return Site(name, what, shape, offset, code, is_emulated(code))
