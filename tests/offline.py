"""Refuse connections, so that no test depends on a network; a test may ask for this machine."""

import errno
import ipaddress
import socket

MESSAGE = "connections are blocked in tests"
ALLOWED = {"this machine": False}  # changed by the fixture ``loopback``


def block_network(patch=setattr) -> None:
    """Block name look-ups and connections by TCP.

    ``patch`` sets an attribute: ``setattr``, or the method of pytest's ``MonkeyPatch``.
    """
    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def checked_connect(self, address):
        check(self, address)
        return connect(self, address)

    def checked_connect_ex(self, address):
        check(self, address)
        return connect_ex(self, address)

    def checked_getaddrinfo(host, *args, **kwargs):
        if not is_local(host):  # names of this machine are looked up without a network
            raise socket.gaierror(socket.EAI_NONAME, f"{MESSAGE}: {host!r}")
        return getaddrinfo(host, *args, **kwargs)

    patch(socket.socket, "connect", checked_connect)
    patch(socket.socket, "connect_ex", checked_connect_ex)
    patch(socket, "getaddrinfo", checked_getaddrinfo)


def check(sock: socket.socket, address) -> None:
    by_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if by_tcp and not (ALLOWED["this machine"] and is_local(address[0])):
        raise OSError(errno.ENETUNREACH, f"{MESSAGE}: {address[0]!r}")


def is_local(host) -> bool:
    """Tell whether a host, as given to ``getaddrinfo``, is this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
