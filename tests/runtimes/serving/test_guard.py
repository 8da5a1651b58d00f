"""Keys, rates, origins, TLS: who may call, on every route there is."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
import threading
import time

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from llmc.runtimes.common.errors import RunError
from llmc.runtimes.serving.api import create_app
from llmc.runtimes.serving.arguments import serving_arguments
from llmc.runtimes.serving.keys import OPEN, KeyGate, new_key, read_keys
from llmc.runtimes.serving.prefix import PrefixBlocks
from llmc.runtimes.serving.rates import RateLimit
from llmc.runtimes.serving.server import prepare

KEYS = {name: f"sk-{name}" for name in ("ann", "bob")}
BODY = {"model": "tiny", "prompt": "say>", "max_tokens": 3, "temperature": 0}


def digests() -> dict[str, str]:
    return {hashlib.sha256(key.encode()).hexdigest(): name for name, key in KEYS.items()}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def guarded(api):
    """An API behind middleware."""

    def build(*middleware: Middleware, **options):
        call, parts = api(**options)
        call.app = create_app(parts.service, middleware)
        return call, parts

    return build


def test_every_route_but_the_probes_needs_a_key(guarded):
    call, parts = guarded(Middleware(KeyGate, keys=digests()))
    routes = [route for route in call.app.routes if isinstance(route, Route)]
    assert len(routes) == len(call.app.routes), "nothing is mounted that would not be seen here"
    for route in routes:
        path, method = route.path.replace("{name:path}", "tiny"), "POST" if "POST" in route.methods else "GET"
        options = {"json": {}} if method == "POST" else {}
        without = call(method, path, **options)
        if path in OPEN:
            assert without.status_code == 200
            continue
        assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer")
        assert without.json()["error"]["code"] == "invalid_api_key"
        for wrong in (bearer("sk-eve"), bearer(""), bearer(KEYS["ann"] + "x"), {"authorization": KEYS["ann"]}):
            assert call(method, path, headers=wrong, **options).status_code == 401
        assert call(method, path, headers=bearer(KEYS["ann"]), **options).status_code != 401
    assert call("GET", "/nowhere").status_code == 401, "what is not there is not told either"
    assert call("GET", "/health/live/../../metrics").status_code == 401
    assert call("GET", "/health/live/").status_code == 401
    assert parts.wait_empty()


def test_the_log_names_whose_key_it_was_and_never_the_key(guarded, caplog):
    caplog.set_level("INFO", "llmc.serving.access")
    call, _ = guarded(Middleware(KeyGate, keys=digests()))
    call("POST", "/v1/completions", json=BODY, headers=bearer(KEYS["bob"]))
    call("POST", "/v1/completions", json=BODY, headers=bearer("sk-guess"))
    assert '"key": "bob"' in caplog.messages[0]
    assert not any("sk-" in message for message in caplog.messages)


def test_cached_prefixes_are_not_shared_between_owners(guarded):
    call, parts = guarded(Middleware(KeyGate, keys=digests()), blocks=PrefixBlocks)
    body = {**BODY, "prompt": "a long and secret prompt>"}
    for name, hits in (("ann", 0), ("bob", 0), ("ann", 24)):
        call("POST", "/v1/completions", json=body, headers=bearer(KEYS[name]))
        assert parts.scheduler.kv.num_hit_tokens == hits


def test_a_new_key_opens_and_only_its_digest_is_kept(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        serving_arguments("tiny", ["--new-key", "ann"], asks_keys=True)
    assert ended.value.code == 0
    first, second = capsys.readouterr().out.splitlines()
    key, line = first.rpartition(" ")[2], second.partition(": ")[2]
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n{line}\n\n")
    assert read_keys(file) == {hashlib.sha256(key.encode()).hexdigest(): "ann"}
    assert key not in line
    assert len({new_key("ann")[0] for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann sk-plain", "keys:1 is not a name and a SHA-256"),
        ("# none yet\n", "has no keys: nobody could call"),
        (None, "cannot be read"),
    ],
)
def test_a_key_file_that_is_wrong_is_an_error_and_no_open_door(tmp_path, text, message):
    if text is not None:
        (tmp_path / "keys").write_text(text)
    with pytest.raises(RunError, match=message):
        read_keys(tmp_path / "keys")
    with pytest.raises(RunError, match="has no file of them"):
        read_keys(None)


def test_each_key_has_a_rate_of_its_own(guarded):
    now = [0.0]
    call, _ = guarded(
        Middleware(KeyGate, keys=digests()), Middleware(RateLimit, per_minute=6, clock=lambda: now[0]), max_batch=8
    )

    def statuses(name: str, count: int) -> list[int]:
        responses = [call("POST", "/v1/completions", json=BODY, headers=bearer(KEYS[name])) for _ in range(count)]
        assert all(r.status_code == 200 or r.headers["retry-after"] == "10" for r in responses)
        return [r.status_code for r in responses]

    assert statuses("ann", 8) == [200] * 6 + [429] * 2
    assert statuses("bob", 2) == [200] * 2
    assert call("GET", "/v1/models", headers=bearer(KEYS["ann"])).status_code == 200, "only what costs is counted"
    now[0] = 20.0
    assert statuses("ann", 3) == [200] * 2 + [429]


def test_only_pages_of_the_declared_origins_may_call(guarded):
    cors = Middleware(
        CORSMiddleware, allow_origins=("https://a.example",), allow_methods=("GET", "POST"), allow_headers=("x",)
    )
    call, _ = guarded(cors, Middleware(KeyGate, keys=digests()))
    asks = {"access-control-request-method": "POST", "origin": "https://a.example"}
    assert call("OPTIONS", "/v1/completions", headers=asks).status_code == 200
    assert call("OPTIONS", "/v1/completions", headers={**asks, "origin": "https://evil.example"}).status_code == 400
    response = call("GET", "/v1/models", headers={**bearer(KEYS["ann"]), "origin": "https://a.example"})
    assert response.headers["access-control-allow-origin"] == "https://a.example"


def test_https(make, tmp_path):
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run([*made.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    parts = make(start=False)
    server, listener = prepare(parts.app, host="127.0.0.1", port=0, drain_s=5, tls=(cert, key))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    trusted = ssl.create_default_context(cafile=str(cert))
    assert server.url.startswith("https://127.0.0.1:")
    assert httpx.post(f"{server.url}/v1/completions", json=BODY, verify=trusted).status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(server.url.replace("https", "http") + "/health/live")
    server.should_exit = True
    thread.join(10)
    with pytest.raises(RunError, match="the certificate cannot be used"):
        prepare(parts.app, host="127.0.0.1", port=0, drain_s=5, tls=(key, cert))
