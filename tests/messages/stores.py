"""Stores for tests: a folder, and a real server of S3 on this machine."""

from __future__ import annotations

import resource
import signal
from contextlib import contextmanager
from urllib.request import Request, urlopen

from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(monkeypatch):
    """Run a server of S3 with an empty bucket during the block, and yield the URL of a folder."""
    import s3fs

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    use_s3_at(address, monkeypatch)
    urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    try:
        yield "s3://bucket/folder"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def use_s3_at(address, monkeypatch):
    """Let s3fs use a server, by the variables with which operators do so."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name-of-a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-a-key")
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def limited_file_size(size):
    """Let the operating system refuse files of more bytes during the block, as a full disk does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
