"""A client for a language server on stdio: just what an editor sends to complete, explain and check one document."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0  # an answer takes well under a second; a busy machine is no reason to fail

# No network: by default the server asks a public catalog for schemas.
SETTINGS = {
    "yaml": {
        "schemaStore": {"enable": False},
        "kubernetesCRDStore": {"enable": False},
        "validate": True,
        "hover": True,
        "completion": True,
    },
    "http": {},
    "editor": {"tabSize": 2},
}


class LanguageServer:
    """`with LanguageServer(command, folder) as server:` starts it, greets it and ends it."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._diagnostics: dict[str, list[dict[str, Any]]] = {}
        self._last_id = 0
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> LanguageServer:
        capabilities = {
            "workspace": {"configuration": True},
            "textDocument": {"completion": {"completionItem": {"snippetSupport": True}}, "publishDiagnostics": {}},
        }
        uri = self.folder.as_uri()
        workspace = {"rootUri": uri, "workspaceFolders": [{"uri": uri, "name": "specs"}]}
        self.request("initialize", {"processId": None, "capabilities": capabilities, **workspace})
        self.notify("initialized", {})
        self.notify("workspace/didChangeConfiguration", {"settings": SETTINGS})
        return self

    def __exit__(self, *_: object) -> None:
        self.request("shutdown", None)
        self.notify("exit", None)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def open(self, name: str, text: str) -> str:
        """Opens a document with this text and returns its address."""
        uri = (self.folder / name).as_uri()
        self.notify(
            "textDocument/didOpen", {"textDocument": {"uri": uri, "languageId": "yaml", "version": 1, "text": text}}
        )
        return uri

    def completions(self, uri: str, line: int, character: int) -> list[str]:
        """Labels of what is offered at a position; lines and characters count from 0."""
        answer = self.request("textDocument/completion", _position(uri, line, character))
        return [item["label"] for item in (answer["items"] if isinstance(answer, dict) else answer)]

    def hover(self, uri: str, line: int, character: int) -> str:
        answer = self.request("textDocument/hover", _position(uri, line, character))
        return answer["contents"]["value"] if answer else ""

    def diagnostics(self, uri: str) -> list[tuple[int, str]]:
        """(line, message) of each fault that the server publishes for a document, after it has read it."""
        while uri not in self._diagnostics:
            self._handle(self._messages.get(timeout=TIMEOUT_S))
        return [(item["range"]["start"]["line"], item["message"]) for item in self._diagnostics[uri]]

    def request(self, method: str, params: Any) -> Any:
        self._last_id += 1
        number = self._last_id
        self._send({"id": number, "method": method, "params": params})
        while True:
            message = self._messages.get(timeout=TIMEOUT_S)
            if message.get("id") == number and "method" not in message:
                assert "error" not in message, message["error"]
                return message["result"]
            self._handle(message)

    def notify(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    def _handle(self, message: dict[str, Any]) -> None:
        """Keeps published diagnostics and answers what the server asks of the editor."""
        if message.get("method") == "textDocument/publishDiagnostics":
            self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif message.get("method") == "workspace/configuration":
            wanted = [SETTINGS.get(item.get("section", "")) for item in message["params"]["items"]]
            self._send({"id": message["id"], "result": wanted})
        elif "id" in message and "method" in message:
            self._send({"id": message["id"], "result": None})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while header := stream.readline():
            length = int(header.split(b":")[1])
            while stream.readline().strip():  # other headers, up to the empty line
                pass
            self._messages.put(json.loads(stream.read(length)))


def _position(uri: str, line: int, character: int) -> dict[str, Any]:
    return {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
