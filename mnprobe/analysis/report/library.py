"""The drawing library inside the page: plotly.js, compressed, and the policy that lets nothing else run."""

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Library", "plotly_library", "policy", "script_hash"]


@dataclass(frozen=True, kw_only=True)
class Library:
    """plotly.js as the page carries it: `packed` is base64 of gzip, `digest` what the policy calls its text."""

    packed: str
    digest: str
    version: str


@cache
def plotly_library() -> Library:
    """plotly.js out of the Python package plotly, so that its version is the one that pip installed.

    4.8 MB shrink to 2 MB; the browser unpacks them when the plot comes into view (DecompressionStream).
    """
    source = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    head = source[:200].decode("utf-8", "replace")
    version = next((word for word in head.split() if word[:1] == "v" and word[1:2].isdigit()), "")
    packed = base64.b64encode(gzip.compress(source, 9, mtime=0)).decode("ascii")
    return Library(packed=packed, digest=script_hash(source), version=version)


def script_hash(text: bytes) -> str:
    """The name of a script in a Content-Security-Policy: only a text with this hash may run.

    >>> script_hash(b"1")
    "'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode('ascii')}'"


def policy(*scripts: str) -> str:
    """The page's Content-Security-Policy: no request, images and style from inside, and only scripts of these hashes.

    >>> policy()
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    """
    allowed = f"; script-src {' '.join(scripts)}" if scripts else ""
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}"
