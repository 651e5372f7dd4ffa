"""Downloads with a checksum."""

from __future__ import annotations

import hashlib
import urllib.request

_SECONDS = 120


def download(url: str, sha256: str) -> bytes:
    """Download a file and verify its checksum.

    Raises
    ------
    OSError
        If the download fails, or the checksum of the file differs.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "flwr-decaf"})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        content: bytes = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise OSError(f"{url} must have the sha256 {sha256}; got {found}; is it a proxy's page?")
    return content
