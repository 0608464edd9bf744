"""Off-screen OpenGL context through EGL, by ctypes."""

import ctypes
import ctypes.util
import os
from functools import lru_cache

from mnprobe.core.environment import with_variables
from mnprobe.core.errors import ConfigError

__all__ = ["make_current"]

_BUFFER = [0x3033, 0x0001, 0x3040, 0x0008, 0x3024, 8, 0x3023, 8, 0x3022, 8, 0x3025, 24, 0x3038]
_SURFACE = [0x3057, 1, 0x3056, 1, 0x3038]  # 1 x 1 pixels: MuJoCo draws into a buffer of its own
_NONE = 0x3038
_OPENGL = 0x30A2
_DEVICES, _SURFACELESS = 0x313F, 0x31DD


def make_current() -> None:
    """Make this process's one context, and make it the current one; ConfigError where EGL does not give any.

    It lives as long as the process: a context that is collected as garbage leaves every later image blank.
    """
    library, display, surface, context = _context(os.getpid())
    if not library.eglMakeCurrent(display, surface, surface, context):
        raise _failure(library, "eglMakeCurrent")


@lru_cache(maxsize=1)
def _context(process: int) -> tuple[ctypes.CDLL, int, int, int]:
    """Library, display, surface, context of this process; a forked one makes its own."""
    # Mesa's software driver would start a thread per core; mnprobe parallelises by processes.
    with with_variables(LP_NUM_THREADS=os.environ.get("LP_NUM_THREADS", "0")):
        return _first_context(_library())


def _first_context(library: ctypes.CDLL) -> tuple[ctypes.CDLL, int, int, int]:
    problems = []
    for platform, device in _platforms(library):
        display = library.eglGetPlatformDisplay(platform, device, None)
        if not display or not library.eglInitialize(display, None, None):
            problems.append(str(_failure(library, f"platform 0x{platform:x}: eglInitialize")))
            continue
        try:
            return library, display, *_on_display(library, display)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(f"EGL gives no OpenGL context ({'; '.join(problems) or 'no device'})")


def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("EGL")
    if name is None:
        raise ConfigError("the system has no libEGL")
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise ConfigError(f"{name} cannot be loaded ({error})") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for function, result, arguments in (
        ("eglGetError", number, []),
        ("eglGetPlatformDisplay", pointer, [number, pointer, pointer]),
        ("eglInitialize", number, [pointer, pointer, pointer]),
        ("eglBindAPI", number, [number]),
        ("eglChooseConfig", number, [pointer, pointer, pointer, number, pointer]),
        ("eglCreatePbufferSurface", pointer, [pointer, pointer, pointer]),
        ("eglCreateContext", pointer, [pointer, pointer, pointer, pointer]),
        ("eglMakeCurrent", number, [pointer, pointer, pointer, pointer]),
        ("eglGetProcAddress", pointer, [ctypes.c_char_p]),
    ):
        if not hasattr(library, function):
            raise ConfigError(f"{name} has no {function}; EGL 1.5 is needed")
        known = getattr(library, function)
        known.restype, known.argtypes = result, arguments
    return library


def _platforms(library: ctypes.CDLL) -> list[tuple[int, int | None]]:
    """Where a display may be got without a screen: graphics devices, then software."""
    address = library.eglGetProcAddress(b"eglQueryDevicesEXT")
    found: list[tuple[int, int | None]] = []
    if address:
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        devices, count = (ctypes.c_void_p * 16)(), ctypes.c_int(0)
        if kind(address)(16, ctypes.byref(devices), ctypes.byref(count)):
            found = [(_DEVICES, device) for device in list(devices)[: count.value]]
    return [*found, (_SURFACELESS, None)]


def _on_display(library: ctypes.CDLL, display: int) -> tuple[int, int]:
    """Surface and context."""
    config, count = ctypes.c_void_p(), ctypes.c_int(0)
    wanted = (ctypes.c_int * len(_BUFFER))(*_BUFFER)
    chosen = library.eglChooseConfig(display, wanted, ctypes.byref(config), 1, ctypes.byref(count))
    if not chosen or not count.value:
        raise _failure(library, "eglChooseConfig")
    if not library.eglBindAPI(_OPENGL):
        raise _failure(library, "eglBindAPI")
    surface = library.eglCreatePbufferSurface(display, config, (ctypes.c_int * len(_SURFACE))(*_SURFACE))
    context = library.eglCreateContext(display, config, None, (ctypes.c_int * 1)(_NONE))
    if not surface or not context:
        raise _failure(library, "eglCreateContext")
    return surface, context


def _failure(library: ctypes.CDLL, what: str) -> ConfigError:
    return ConfigError(f"{what} failed with EGL error 0x{library.eglGetError():x}")
