"""Debian's kernels and what boots them: qemu, virtme-ng, and a disk image with the interpreter.

The machine's own package sources are never changed: each Debian release is read through a private apt state directory with one
source of its own, verified against Debian's archive keyring, and the kernel package is unpacked, not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RELEASES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
"""Kernel series to the Debian release that ships it."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
VIRTME_NG = "virtme-ng==1.42"

# command to Debian package; virtme-ng's guest side needs busybox, kmod and udev
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "udevadm": "udev",
    "mke2fs": "e2fsprogs",
    "ip": "iproute2",
    "tc": "iproute2",
}


class FetchError(Exception):
    """Something the guests need cannot be had; the message says what and how to get it."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One unpacked kernel package.

    Attributes:
        series: the series it stands for, such as ``6.1``.
        release: what ``uname -r`` says when it runs.
        package: Debian's package name and version.
        image: the bootable kernel; its modules lie beside it.
    """

    series: str
    release: str
    package: str
    image: Path


def say(text: str) -> None:
    """Tells on stderr what is being done; stdout carries only the result."""
    print(f"kernels: {text}", file=sys.stderr, flush=True)


def run(command: Iterable[str | Path], environment: dict[str, str] | None = None) -> str:
    """Runs a command to its end and returns its stdout.

    Raises:
        FetchError: it failed; the message holds the command and the end of what it printed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise FetchError(f"{' '.join(words)} exited {done.returncode}: {(done.stderr or done.stdout)[-800:].strip()}")
    return done.stdout


def cache_directory(project: Path) -> Path:
    """Makes and returns the directory that holds everything fetched; it ignores itself in git."""
    cache = project / ".cache" / "kernels"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    return cache


def install_tools() -> None:
    """Installs the Debian packages of the commands that are missing, and nothing where none is."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted({package for command, package in TOOLS.items() if shutil.which(command, path=path) is None})
    if not missing:
        return
    if os.geteuid() != 0:
        raise FetchError(f"missing Debian packages: {' '.join(missing)}; install them or run as root")
    say(f"installing {' '.join(missing)}")
    lock = ["-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", *lock, "-qq", "update"], environment)
    run(["apt-get", *lock, "-qq", "install", "-y", "--no-install-recommends", *missing], environment)


def virtme(cache: Path) -> Path:
    """Returns the ``vng`` command of virtme-ng, in a virtual environment of its own."""
    command = cache / "venv" / "bin" / "vng"
    if not command.exists():
        say(f"installing {VIRTME_NG}")
        run([sys.executable, "-m", "venv", "--clear", cache / "venv"])
        run([cache / "venv" / "bin" / "pip", "install", "--quiet", VIRTME_NG])
    return command


def mirror() -> str:
    """The Debian mirror that this machine's own sources name."""
    targets = run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"])
    for line in targets.splitlines():
        origin, label, uri = line.split("|", 2)
        if origin == label == "Debian":
            return uri.rstrip("/")
    raise FetchError("no source of apt is Debian's archive; add one to /etc/apt/sources.list.d and run apt-get update")


def private_apt(cache: Path, release: str) -> list[str]:
    """Returns the options that make apt read one Debian release and write only below `cache`."""
    state = cache / "apt" / release
    for folder in ("lists/partial", "archives/partial", "sources"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "sources" / "debian.sources").write_text(
        f"Types: deb\nURIs: {mirror()}\nSuites: {release}\nComponents: main\nArchitectures: amd64\n"
        f"Targets: Packages\nSigned-By: {KEYRING}\n"
    )
    configuration = state / "apt.conf"
    # The machine's hooks act on the machine's own caches: they are not for a private state.
    configuration.write_text(
        f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{state}/sources";\n'
        f'Dir::State "{state}";\nDir::State::status "/dev/null";\nDir::Cache "{state}";\n'
        'APT::Architecture "amd64";\nAPT::Sandbox::User "root";\n'
        "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
    )
    return ["-c", str(configuration)]


def kernel(cache: Path, series: str) -> Kernel:
    """Returns the newest kernel of a series that its Debian release ships, fetched when it is not there yet.

    Raises:
        FetchError: the series is unknown, or apt, the signature check or dpkg failed.
    """
    if series not in RELEASES:
        raise FetchError(f"no Debian release is known for kernel {series}; known: {', '.join(RELEASES)}")
    folder = cache / series
    record = folder / "package.json"
    if not record.exists():
        _unpack(cache, series, folder)
    package: str = json.loads(record.read_text())["package"]
    image = next((folder / "boot").glob("vmlinuz-*"))
    return Kernel(series, image.name.removeprefix("vmlinuz-"), package, image)


def _unpack(cache: Path, series: str, folder: Path) -> None:
    release = RELEASES[series]
    if not KEYRING.exists():
        raise FetchError(f"{KEYRING} is missing; apt-get install debian-archive-keyring")
    say(f"reading the package list of Debian {release}")
    options = private_apt(cache, release)
    run(["apt-get", *options, "-qq", "update"])
    depends = run(["apt-cache", *options, "depends", "linux-image-amd64"])
    name = next((word for word in depends.split() if word.startswith("linux-image-") and word[12].isdigit()), None)
    if name is None:
        raise FetchError(f"linux-image-amd64 of Debian {release} depends on no kernel: {depends!r}")
    # The unsigned package holds the same kernel and needs no second package with a detached signature.
    name += "-unsigned"
    say(f"fetching {name}")
    fresh = cache / f"{series}.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    download = ["apt-get", *options, "-qq", "download", name]
    done = subprocess.run(download, cwd=fresh, capture_output=True, text=True, check=False)
    archives = list(fresh.glob("*.deb"))
    if done.returncode or len(archives) != 1:
        raise FetchError(f"{' '.join(download)} exited {done.returncode}: {done.stderr.strip()}")
    version = run(["dpkg-deb", "--field", archives[0], "Version"]).strip()
    run(["dpkg-deb", "--extract", archives[0], fresh])
    archives[0].unlink()
    (fresh / "package.json").write_text(json.dumps({"package": f"{name} {version}", "release": release}))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def python_image(cache: Path, project: Path, python: Path) -> tuple[Path, Path]:
    """Makes a read-only ext4 image of everything the agent imports.

    The guest sees the host's files over 9p, one round trip to an emulated device for each stat and read: the agent's imports
    take 20 to 40 s so, and 4 to 10 s from a block device.

    Returns:
        The image, and a text file with the directories in it, one a line: each is mounted over its own path.
    """
    query = (
        "import json, sys, sysconfig; print(json.dumps([sys.prefix, sys.base_prefix, sysconfig.get_path('stdlib')]))"
    )
    prefix, base, stdlib = json.loads(run([python, "-c", query]))
    own = [project / "otel_netmon", project / "bpf", project / "scripts" / "kernels"]
    folders = [Path(stdlib), *own]
    if prefix != base:
        folders.append(Path(prefix))
    stage = cache / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    for folder in folders:
        target = stage / folder.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, target, symlinks=True, copy_function=_link_or_copy)
    # Compiled here: the guest cannot write them, and compiling is slow there.
    compiled = [str(stage / folder.relative_to("/")) for folder in own]
    run([python, "-m", "compileall", "-q", "-s", stage, "-p", "/", *compiled])
    size = int(run(["du", "-sm", stage]).split()[0])
    image = cache / "python.img"
    image.unlink(missing_ok=True)
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", stage, image, f"{size * 5 // 4 + 64}M"])
    shutil.rmtree(stage)
    listing = cache / "python.directories"
    listing.write_text("".join(f"{folder}\n" for folder in folders))
    return image, listing


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system: EXDEV, or one without hard links
        shutil.copy2(source, target)
