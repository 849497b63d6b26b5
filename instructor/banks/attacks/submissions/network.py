"""Sends what it is given out of the machine: addresses, names, local and abstract sockets.

base: reference
code: usual
quality: usual
"""

import socket

_reached = []
for _family, _address in (
    (socket.AF_INET, ("1.1.1.1", 53)),
    (socket.AF_INET, ("127.0.0.1", 22)),
    (socket.AF_INET, ("127.0.0.1", 8786)),
    (socket.AF_INET6, ("::1", 8786)),
    (socket.AF_UNIX, "/run/dbus/system_bus_socket"),
    (socket.AF_UNIX, "/var/run/docker.sock"),
    (socket.AF_UNIX, "\0/tmp/.X11-unix/X0"),
):
    try:
        with socket.socket(_family) as _socket:
            _socket.settimeout(1)
            _socket.connect(_address)
            _reached.append(_address)
    except OSError:
        pass
try:
    _reached.append(socket.getaddrinfo("example.org", 80))
except OSError:
    pass
if _reached:
    raise RuntimeError(f"reached {_reached}")
