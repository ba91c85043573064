"""A stand-in for W&B's API: as much of it as its client needs to make, stream and resume runs."""

import gzip
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"
EVENTS, HISTORY = "wandb-events.jsonl", "wandb-history.jsonl"


class WandbServer(ThreadingHTTPServer):
    """What clients sent.

    Attributes:
        url: to be set as WANDB_BASE_URL.
        runs: by id, what was last said of a run (group, display name, config, …).
        lines: by (run id, file name), the lines of its streamed files, each at the offset at which
            the client put it.
        views: the specifications of the workspaces that were saved.
        asked: the names of the GraphQL operations, in order.
        refuses: answer as to a key that is not known.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self.views: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.refuses = False

    def history(self, run: str) -> list[dict[str, Any]]:
        """The rows of a run, in order."""
        lines = self.lines[run, HISTORY]
        assert sorted(lines) == list(range(len(lines)))
        return [json.loads(lines[offset]) for offset in sorted(lines)]

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a GraphQL operation."""
        self.asked.append(name)
        match name:
            case "Viewer":
                return {"viewer": {"id": "1", "username": "someone", "entity": "someone"}}
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": self._upsert(variables), "inserted": True}}
            case "RunResumeStatus":
                return {"model": {"id": "1", "bucket": self._status(variables["name"])}}
            case "CreateRunFiles":
                files = [
                    {"name": file, "uploadUrl": f"{self.url}/upload/{file}"}
                    for file in variables["files"]
                ]
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
            case "UpsertView2":
                self.views.append(variables)
                return {"upsertView": {"view": {"id": "1", "name": variables["name"]}}}
        return {}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        said = {key: value for key, value in variables.items() if value is not None}
        run = self.runs.setdefault(variables["name"], {})
        run.update(said)
        project = {"id": "1", "name": run["project"], "entity": {"id": "1", "name": "someone"}}
        return {"id": "1", "name": run["name"], "displayName": run["displayName"]} | {
            "project": project,
            "historyLineCount": len(self.lines[run["name"], HISTORY]),
        }

    def _status(self, name: str) -> dict[str, Any] | None:
        if name not in self.runs:
            return None
        run, history = self.runs[name], self.history(name)
        return {
            "id": "1",
            "name": name,
            "displayName": run["displayName"],
            "config": run["config"],
            "summaryMetrics": "{}",
            "logLineCount": 0,
            "historyLineCount": len(history),
            "eventsLineCount": len(self.lines[name, EVENTS]),
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
            "eventsTail": "[]",
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server that answers as long as the `with` lasts."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if self.server.refuses:
            self._reply({"errors": [{"message": "unknown key"}]}, 401)
            return
        if self.path == "/graphql":
            asked = json.loads(body)
            query = asked.get("operationName") or asked["query"].split("(")[0].split()[-1]
            self._reply({"data": self.server.answer(query, asked.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):  # /files/ENTITY/PROJECT/RUN/file_stream
            run = self.path.split("/")[-2]
            for file, part in (json.loads(body).get("files") or {}).items():
                for number, line in enumerate(part["content"], part["offset"]):
                    self.server.lines[run, file][number] = line
        self._reply({})  # the rest is telemetry

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply({})

    def _reply(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
