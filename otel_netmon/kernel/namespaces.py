"""Network namespaces: hold one by an open file, go in, open something there, come back.

Standard library only: ``os.setns`` exists from Python 3.12, so setns(2) is called through ctypes.
Sources: network_namespaces(7), setns(2), ioctl_ns(2), ip-netns(8) for the folder of names.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from otel_netmon.errors import ConfigError, NetmonError, PrivilegeError

NAMES_FOLDER = "/run/netns"
_THREAD_NAMESPACE = "/proc/thread-self/ns/net"
_PROC_NET = "/proc/thread-self/net"
_NETLINK_ROUTE = 0
_NETLINK_SOCK_DIAG = 4
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace held by an open file: it exists at least until `close`.

    Attributes:
        name: as it was asked for, a name under /run/netns or an absolute path; empty for the agent's own.
        fd: open file of the namespace, closed on exec.
        identity: (device, inode) of the namespace; two names of one namespace have the same.
    """

    name: str
    fd: int
    identity: tuple[int, int]

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self.fd)


def namespace_path(name: str) -> str:
    """The file of a namespace: an absolute path as it is, a plain name under /run/netns.

    Raises:
        ConfigError: neither of the two.
    """
    if name.startswith("/"):
        return name
    if not name or "/" in name or name in (".", ".."):
        raise ConfigError(
            f"{name!r} names no network namespace",
            "give a name as `ip netns list` shows it, or an absolute path such as /proc/PID/ns/net",
        )
    return f"{NAMES_FOLDER}/{name}"


def own_namespace() -> Namespace:
    """The namespace of the calling thread, under the empty name."""
    namespace = _open("", _THREAD_NAMESPACE)
    if namespace is None:
        raise NetmonError(f"{_THREAD_NAMESPACE} is absent", "mount /proc")
    return namespace


def find_namespace(name: str) -> Namespace | None:
    """Open a namespace by name or path; None while there is none of that name (it may come later).

    Raises:
        ConfigError: the name cannot name a namespace.
        PrivilegeError: the file may not be opened.
    """
    return _open(name, namespace_path(name))


def current_identity(name: str) -> tuple[int, int] | None:
    """(device, inode) of what has that name now, without opening it; None where there is nothing.

    Raises:
        ConfigError, PrivilegeError: as `find_namespace`.
    """
    path = namespace_path(name)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None
    except PermissionError as error:
        raise _refused(path, error) from error
    return status.st_dev, status.st_ino


@contextmanager
def entered(namespace: Namespace) -> Iterator[None]:
    """Run the body with the calling thread inside `namespace`, and bring the thread back whatever happens.

    What the body opens stays in the namespace: sockets, and files under /proc/thread-self/net. If the way back is
    refused the process ends at once: to go on in a foreign namespace would attach and export from the wrong place.

    Raises:
        PrivilegeError: CAP_SYS_ADMIN is missing.
    """
    home = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            _setns(namespace.fd)
        except PermissionError as error:
            raise PrivilegeError(
                f"entering the network namespace {namespace.name or 'of the agent'!r} was refused: {error.strerror}",
                "give the agent CAP_SYS_ADMIN, or leave out the list of namespaces",
            ) from error
        try:
            yield
        finally:
            try:
                _setns(home)
            except OSError as error:
                message = f"otel-netmon: cannot return from network namespace {namespace.name!r}: {error}; ending\n"
                os.write(2, message.encode(errors="backslashreplace"))
                os._exit(1)
    finally:
        os.close(home)


def opened_in(namespace: Namespace, opener: Callable[[], T]) -> T:
    """What `opener` opens while the thread is inside `namespace`; entered only if the thread is not there already.

    Raises:
        PrivilegeError: the namespace is another one, and CAP_SYS_ADMIN is missing.
    """
    status = os.stat(_THREAD_NAMESPACE)
    if (status.st_dev, status.st_ino) == namespace.identity:
        return opener()
    with entered(namespace):
        return opener()


def open_netdev(namespace: Namespace) -> int:
    """An open file of the namespace's /proc/net/dev; whoever inherits it reads that namespace's counters.

    Raises:
        PrivilegeError: as `opened_in`.
    """
    return open_proc_net(namespace, "dev")


def open_proc_net(namespace: Namespace, name: str) -> int:
    """An open file of the namespace's /proc/net/NAME; whoever inherits it reads that namespace.

    Raises:
        PrivilegeError: as `opened_in`.
        FileNotFoundError: the kernel has no such file, as snmp6 without IPv6.
    """
    return opened_in(namespace, lambda: os.open(f"{_PROC_NET}/{name}", os.O_RDONLY | os.O_CLOEXEC))


def open_sock_diag(namespace: Namespace) -> int:
    """A socket of NETLINK_SOCK_DIAG; whoever inherits it is told the sockets of that namespace.

    Raises:
        PrivilegeError: as `opened_in`.
        OSError: the kernel has no sock_diag.
    """
    return _open_netlink(namespace, _NETLINK_SOCK_DIAG)


def open_rtnetlink(namespace: Namespace) -> int:
    """A socket of NETLINK_ROUTE; whoever inherits it asks the routing tables of that namespace.

    Raises:
        PrivilegeError: as `opened_in`.
        OSError: the kernel refuses it.
    """
    return _open_netlink(namespace, _NETLINK_ROUTE)


def _open_netlink(namespace: Namespace, family: int) -> int:
    def opener() -> int:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family).detach()

    return opened_in(namespace, opener)


def _open(name: str, path: str) -> Namespace | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None
    except PermissionError as error:
        raise _refused(path, error) from error
    try:
        is_network = fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            os.close(fd)
            raise
        is_network = False
    if not is_network:
        # `ip netns add` makes an empty file first and mounts the namespace over it: until then there is none.
        os.close(fd)
        return None
    status = os.fstat(fd)
    return Namespace(name, fd, (status.st_dev, status.st_ino))


def _refused(path: str, error: PermissionError) -> PrivilegeError:
    return PrivilegeError(
        f"{path} may not be opened: {error.strerror}",
        "run the agent as root, with CAP_SYS_ADMIN, and with CAP_SYS_PTRACE for a path under /proc/PID",
    )


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
