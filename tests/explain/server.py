"""A stand-in for an endpoint of OpenAI's protocol, which does as it is told, request by request."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
Behaviour = Callable[[dict[str, Any]], Reply]


class Server:
    """Answers by the behaviours in their order, and then well.

    Attributes:
        url: for `judge.base_url`.
        requests: the bodies of all that came, with the path at `path`.
    """

    def __init__(self, behaviours: list[Behaviour]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._behaviours, self._lock = list(behaviours), Lock()

    def reply(self, body: dict[str, Any]) -> Reply:
        with self._lock:
            self.requests.append(body)
            behaviour = self._behaviours.pop(0) if self._behaviours else well
        return behaviour(body)


@contextmanager
def serving(*behaviours: Behaviour) -> Iterator[Server]:
    server = Server(list(behaviours))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, data = server.reply(body | {"path": self.path})
            self.send_response(status)
            sent = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # whoever asked has gone
                self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def well(body: dict[str, Any]) -> Reply:
    """As it should: every passage is one in which the latent fires."""
    if body["path"].endswith("/embeddings"):
        data = [{"index": i, "embedding": [1.0, i]} for i, _ in enumerate(body["input"])]
        return _json({"data": data[::-1], "usage": {"prompt_tokens": 5, "total_tokens": 5}})
    asks = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    asks = asks[:-1] if asks[-1].startswith("That cannot be read") else asks
    asked = asks[-1].partition("\n\n")[2].splitlines()
    numbered = [line.partition("\t")[0] for line in asked if "\t" in line]
    return saying("\n".join(f"{label}\t1" for label in numbered) or "multiples of a number")(body)


def saying(text: str | None, **more: Any) -> Behaviour:
    """That text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, **more}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return lambda body: _json({"choices": [choice], "usage": usage})


def failing(status: int, **headers: str) -> Behaviour:
    """With an error of that status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda body: (status, named, b'{"error": {"message": "not now"}}')


def sending(data: bytes) -> Behaviour:
    """Whatever it is."""
    return lambda body: (200, {}, data)


def sleeping(seconds: float) -> Behaviour:
    """Too late."""

    def late(body: dict[str, Any]) -> Reply:
        time.sleep(seconds)
        return well(body)

    return late


def _json(value: Any) -> Reply:
    return 200, {}, json.dumps(value).encode()
