"""A stand-in for the part of the Hugging Face hub's API by which models are put there."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_standin"


@dataclass
class Hub:
    """What was sent.

    Attributes:
        address: where it listens.
        repositories: what was asked for when each was created, by name.
        files: their contents, by repository and path.
        refusal: status and reason with which it refuses to create anything.
    """

    address: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None


@contextmanager
def hub() -> Iterator[Hub]:
    """Answer on a free port of this machine."""
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "Invalid credentials"}, 401)
            if found.refusal is not None:
                return self.answer({"error": found.refusal[1]}, found.refusal[0])
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                found.repositories[name] = asked
                return self.answer({"url": f"{found.address}/{name}", "name": name})
            repository = "/".join(self.path.split("/")[3:5])
            if "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                return self.answer({"files": modes})
            if "/commit/" in self.path:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        found.files.setdefault(repository, {})[entry["value"]["path"]] = content
                return self.answer({"commitUrl": f"{found.address}/{repository}/commit/0", "commitOid": "0" * 40})
            return self.answer({"error": f"no {self.path} here"}, 404)

        def answer(self, value: Any, status: int = 200) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
