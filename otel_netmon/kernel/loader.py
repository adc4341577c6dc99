"""Images into the kernel: finds or compiles the image, makes its maps, loads its programs."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from otel_netmon.abi.enums import LATE_DEFAULTS, Late
from otel_netmon.errors import ImageError, KernelLacksError, PrivilegeError
from otel_netmon.kernel import image, syscalls

CAPABILITIES = "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8), or root"


def obtain(
    name: str,
    cache: Path,
    sources: Path | None = None,
    constants: Mapping[str, int] | None = None,
    interpreter: str | None = None,
) -> tuple[image.Image, str]:
    """Gives an image and where it came from: ``shipped``, ``cache`` or ``compiled``.

    Args:
        cache: folder of images compiled here.
        sources: another folder of bpf/*.c than the installed one.
        constants: macros that differ from the sources' own.
        interpreter: a Python that imports bcc, for the compiler.

    Raises:
        ImageError: nothing fits and nothing could be compiled.
    """
    folder = sources or image.source_directory()
    wanted = image.source_hash(folder, name, constants or {})
    shipped = image.load(image.SHIPPED / f"{name}.json")
    if shipped is not None and shipped.hash == wanted:
        return shipped, "shipped"
    path = image.cache_path(cache, name, wanted)
    with contextlib.suppress(ImageError):  # a damaged one is compiled again over it
        cached = image.load(path)
        if cached is not None and cached.hash == wanted:
            return cached, "cache"
    from otel_netmon.kernel import compiler  # subprocess and what it needs: 20 ms that few starts pay

    try:
        return compiler.compile_image(folder, name, constants or {}, path, interpreter), "compiled"
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}", "set images.directory to a folder that can be written") from error


def require_privilege() -> None:
    """Makes the smallest of maps: the one call that needs what everything after it needs.

    Raises:
        PrivilegeError, KernelLacksError: bpf(2) refuses it.
    """
    raise_memlock()
    try:
        os.close(syscalls.map_create(syscalls.MAP_TYPE_ARRAY, 4, 8, 1))
    except OSError as error:
        raise _explain(error, "using bpf(2)") from error


def raise_memlock() -> None:
    """Before 5.11 maps are charged to RLIMIT_MEMLOCK; where it may not be raised, later kernels do not need it."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class LoadedImage:
    """An image in the kernel: its maps exist, its programs are loaded on demand, one for each set of late constants.

    Args:
        source: the image.
        sizes: max_entries by map name, where they differ from the image's.
        flags: map flags by map name, likewise.
        shared: file descriptors of maps by name that another image has made; they stay its own.
    """

    def __init__(
        self,
        source: image.Image,
        sizes: Mapping[str, int] | None = None,
        flags: Mapping[str, int] | None = None,
        shared: Mapping[str, int] | None = None,
    ) -> None:
        self.image = source
        self.maps: dict[str, int] = {}
        self.definitions: dict[str, image.MapDefinition] = {}
        self._programs: dict[tuple[str, tuple[tuple[Late, int], ...]], int] = {}
        try:
            for definition in source.maps:
                wanted = definition._replace(
                    max_entries=(sizes or {}).get(definition.name, definition.max_entries),
                    flags=(flags or {}).get(definition.name, definition.flags),
                )
                self.definitions[definition.name] = wanted
                if definition.name in (shared or {}):
                    self.maps[definition.name] = os.dup((shared or {})[definition.name])
                    continue
                self.maps[definition.name] = syscalls.map_create(
                    wanted.kind, wanted.key_size, wanted.value_size, wanted.max_entries, wanted.flags, wanted.name
                )
        except OSError as error:
            self.close()
            raise _explain(error, f"creating the maps of {source.name}") from error

    def program(self, name: str, late: Mapping[Late, int] | None = None) -> int:
        """Gives the fd of a program with these late constants, loading it the first time.

        One that others call takes its slot in their program array, in the place of another variant of it.
        """
        special = {constant: value for constant, value in (late or {}).items() if value != LATE_DEFAULTS[constant]}
        key = (name, tuple(sorted(special.items())))
        if key not in self._programs:
            self._programs[key] = self._load(name, special, 0)[0]
            if name in image.TAIL_CALLS:
                array, slot = image.TAIL_CALLS[name]
                fd = self._programs[key]
                syscalls.map_update(self.maps[array], slot.to_bytes(4, "little"), fd.to_bytes(4, "little"))
        return self._programs[key]

    def program_that_fits(self, name: str, late: Mapping[Late, int] | None = None) -> tuple[int, bool]:
        """Gives the fd of a program, and whether it is the variant for kernels that lack a helper (``image.FALLBACKS``).

        Raises:
            KernelLacksError: the kernel refuses both.
        """
        if name in image.FALLBACKS:
            with contextlib.suppress(KernelLacksError):
                return self.program(name, late), False
            return self.program(name, {**(late or {}), **image.FALLBACKS[name]}), True
        return self.program(name, late), False

    def runs(self, name: str) -> bool:
        """Whether a variant of this program is loaded."""
        return any(loaded == name for loaded, _ in self._programs)

    def unload(self, name: str) -> None:
        """Gives every variant of a program back; who called it finds nothing."""
        for key in [key for key in self._programs if key[0] == name]:
            os.close(self._programs.pop(key))
            if name in image.TAIL_CALLS:
                array, slot = image.TAIL_CALLS[name]
                syscalls.map_delete(self.maps[array], slot.to_bytes(4, "little"))

    def verifier_report(self, name: str, late: Mapping[Late, int] | None = None) -> str:
        """Loads the program once more for the verifier's statistics (BPF_LOG_STATS)."""
        fd, log = self._load(name, late or {}, 4)
        os.close(fd)
        return log.strip()

    def _load(self, name: str, late: Mapping[Late, int], log_level: int) -> tuple[int, str]:
        source = self.image.programs[name]
        code = image.patch(source.instructions, tuple(self.maps[m.name] for m in self.image.maps), late)
        try:
            return syscalls.program_load(
                source.kind, code, name, log_level, attach_type=image.attach_type(name, source)
            )
        except syscalls.VerifierRefusal as refusal:
            if refusal.errno in (errno.EPERM, errno.ENOSYS):
                raise _explain(OSError(refusal.errno, os.strerror(refusal.errno)), f"loading {name}") from refusal
            raise KernelLacksError(f"the kernel refused the program {name}: {refusal}") from refusal

    def programs(self) -> dict[str, int]:
        """Loaded programs by name; variants of one program get a suffix."""
        result: dict[str, int] = {}
        for (name, late), fd in self._programs.items():
            suffix = "".join(f",{k.name.lower()}={v}" for k, v in late)
            result[name + suffix] = fd
        return result

    def close(self) -> None:
        """Gives maps and programs back; what is attached stays attached."""
        for fd in (*self._programs.values(), *self.maps.values()):
            os.close(fd)
        self._programs.clear()
        self.maps.clear()


def _explain(error: OSError, what: str) -> Exception:
    if error.errno == errno.EPERM:
        return PrivilegeError(f"{what}: not permitted", f"start with {CAPABILITIES}")
    if error.errno == errno.ENOSYS:
        return KernelLacksError(f"{what}: this kernel has no bpf(2)", "it needs CONFIG_BPF_SYSCALL")
    return KernelLacksError(f"{what}: {error.strerror}")
