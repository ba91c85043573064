"""A Hub on this machine: the part of its file API that huggingface_hub calls, over real HTTP.

Repositories are lists of commits, a commit maps paths to bytes. Large files go the way of Git LFS.
The newer way, Xet, is a service of its own: HF_HUB_DISABLE_XET=1 keeps the client off it.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secretOfTheStandInHub"
ENVIRONMENT = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}


class Hub(ThreadingHTTPServer):
    """Attributes: what is stored, and each request's method and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.visibility: dict[str, str | None] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, cache: str) -> dict[str, str]:
        """What the client needs to come here, and to keep its files in `cache`."""
        return {**ENVIRONMENT, "HF_ENDPOINT": self.url, "HF_HOME": cache}

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add files on top of the newest commit; the new one's hash."""
        commits = self.repos.setdefault(repo, [])
        tree = {**(commits[-1][1] if commits else {}), **files}
        sha = hashlib.sha1(repr((len(commits), sorted(tree.items()))).encode()).hexdigest()
        commits.append((sha, tree))
        return sha

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision names; None if there is none."""
        commits = self.repos[repo]
        found = commits[-1:] if revision == "main" else [c for c in commits if c[0] == revision]
        return found[0] if found else None


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers while the block runs."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing: what was asked for is in the Hub's `requests`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        match path.split("/"):
            case ["api", "models", user, name, "tree", revision, *_]:
                self._at(f"{user}/{name}", revision, self._tree)
            case ["api", "models", user, name, "revision", revision]:
                self._at(f"{user}/{name}", revision, self._info)
            case ["api", "models", user, name]:
                self._at(f"{user}/{name}", "main", self._info)
            case [user, name, "resolve", revision, *file]:
                self._at(f"{user}/{name}", revision, self._file, "/".join(file))
            case _:
                self._refuse(404, "EntryNotFound")

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "", "Invalid username or password.")
        match path.split("/"):
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "models", user, name, "preupload", _]:
                self._preupload(f"{user}/{name}", json.loads(body))
            case ["api", "models", user, name, "commit", _]:
                self._commit(f"{user}/{name}", body)
            case [_, _, "info", "lfs", "objects", "batch"]:
                self._lfs(json.loads(body))
            case _:
                self._refuse(404, "RepoNotFound")

    def do_PUT(self) -> None:
        body, oid = self._body(), self._path().removeprefix("lfs/")
        if hashlib.sha256(body).hexdigest() != oid:
            return self._refuse(400, "", "not the announced content")
        self.server.objects[oid] = body
        self._json({})

    def _path(self) -> str:
        self.server.requests.append((self.command, self.path))
        return unquote(urlsplit(self.path).path).strip("/")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _at(self, repo: str, revision: str, answer: Any, *args: Any) -> None:
        if repo not in self.server.repos:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        found = self.server.at(repo, revision)
        if found is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        answer(repo, *found, *args)

    def _info(self, repo: str, sha: str, tree: dict[str, bytes]) -> None:
        files = [{"rfilename": path} for path in tree]
        self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": files, "tags": []})

    def _tree(self, repo: str, sha: str, tree: dict[str, bytes]) -> None:
        assert "recursive" in parse_qs(urlsplit(self.path).query)
        self._json(
            [{"type": "file", "path": p, "size": len(b), "oid": _oid(b)} for p, b in tree.items()]
        )

    def _file(self, repo: str, sha: str, tree: dict[str, bytes], path: str) -> None:
        if path not in tree:
            return self._refuse(404, "EntryNotFound", f"{path} does not exist")
        headers, body = {"ETag": f'"{_oid(tree[path])}"', "X-Repo-Commit": sha}, tree[path]
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, last = map(int, asked.groups())
            headers["Content-Range"] = f"bytes {start}-{last}/{len(body)}"
            return self._send(206, body[start : last + 1], headers)
        self._send(200, body, headers)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.server.repos:
            return self._json({"error": "You already created this", "url": f"/{repo}"}, 409)
        self.server.visibility[repo] = asked.get("visibility")
        self.server.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.server.url}/{repo}", "name": repo})

    def _preupload(self, repo: str, asked: dict[str, Any]) -> None:
        files = []
        for file in asked["files"]:
            is_large = file["path"].endswith((".safetensors", ".npz", ".pt"))
            mode = "lfs" if is_large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self._json({"files": files})

    def _lfs(self, asked: dict[str, Any]) -> None:
        assert "basic" in asked["transfers"]
        objects = []
        for wanted in asked["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{wanted['oid']}"}
            is_here = wanted["oid"] in self.server.objects
            objects.append({**wanted, **({} if is_here else {"actions": {"upload": upload}})})
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, body: bytes) -> None:
        files = {}
        for line in body.splitlines():
            match json.loads(line):
                case {"key": "file", "value": value}:
                    files[value["path"]] = base64.b64decode(value["content"])
                case {"key": "lfsFile", "value": value}:
                    files[value["path"]] = self.server.objects[value["oid"]]
        sha = self.server.commit(repo, files)
        url = f"{self.server.url}/{repo}/commit/{sha}"
        self._json({"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str = "not here") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    """As Git names a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
