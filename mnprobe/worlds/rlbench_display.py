"""Check for an X server: the simulator exits if no display is available."""

import os
import re
import socket

__all__ = ["find_display"]

_DISPLAY = re.compile(r"(?P<host>[^:]*):(?P<number>\d+)(\.\d+)?")
_SECONDS = 2.0  # timeout of a connection; a local server answers at once
_START = "start one: `Xvfb :99 -screen 0 1280x1024x24 &`, then `export DISPLAY=:99`"


def find_display() -> str:
    """State of the X display in words, starting with 'ok' where the server that DISPLAY names takes connections.

    RLBench's cameras are rendered through X even when headless. Without a display the simulator is expected to end
    the whole process, which no error handling survives (specs/rlbench.md vi).
    """
    name = os.environ.get("DISPLAY", "")
    if not name:
        return f"absent: DISPLAY is not set, and headless rendering needs an X server too; {_START}"
    match = _DISPLAY.fullmatch(name)
    if not match:
        return f"wrong: DISPLAY is {name!r}, expected something like ':99'"
    host, number = match["host"], int(match["number"])
    try:
        _connect(host, number)
    except (OSError, OverflowError) as error:
        return f"wrong: DISPLAY is {name}, but no X server answers there ({error}); {_START}"
    return f"ok: {name}"


def _connect(host: str, number: int) -> None:
    if host not in ("", "unix"):
        socket.create_connection((host, 6000 + number), timeout=_SECONDS).close()
        return
    path = f"/tmp/.X11-unix/X{number}"
    try:
        _connect_unix("\0" + path)  # Linux abstract socket, which X servers open in addition to the file
    except OSError:
        _connect_unix(path)


def _connect_unix(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(address)
