"""A real S3 server on this machine: moto's, which runs in an environment of its own.

`make test-slow` makes that environment and names its Python in SAE_DIST_S3.
"""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PYTHON = os.environ.get("SAE_DIST_S3", "")
needs_server = pytest.mark.skipif(not PYTHON, reason="no S3 server: run `make test-slow`")


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Start a server with a bucket; gives what a user would have in the environment for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"))
                break
            except OSError:
                time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def credentials(endpoint: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user gives them: in the environment."""
    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
