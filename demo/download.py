"""Downloads that are checked."""

from __future__ import annotations

import hashlib
import urllib.request

_SECONDS = 120


def download(url: str, sha256: str) -> bytes:
    """Get a file.

    Raises
    ------
    OSError
        If it cannot be had, or is another than expected.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "flwr-decaf"})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        content: bytes = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise OSError(f"{url} must have the sha256 {sha256}; got {found}; is it a proxy's page?")
    return content
