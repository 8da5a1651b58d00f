"""What is generated for a machine of one's own: nginx, units of systemd, a Dockerfile, a compose file."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from objects import objects
from slurm_cluster import environment, tool
from trees import cpus, gpus, launch_texts, serving, training

TWO_GPUS = gpus("h100-sxm-80g", nodes=1, per_node=2)
SYSTEMD = {"target": "systemd", "folder": "/srv/tiny", "environment": {"OWN_VALUE": "50 % of \"$HOME\" 'x'"}}


class Replica(BaseHTTPRequestHandler):
    """Says who answers; `/stream` in two pieces, the second only when told; full or gone if told."""

    protocol_version = "HTTP/1.1"
    status: dict[int, int] = {}  # noqa: RUF012 (what each port answers with)
    go_on = threading.Event()

    def do_POST(self) -> None:
        port = self.server.server_address[1]
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status = self.status.get(port, 200)
        body = json.dumps({"port": port, "for": self.headers.get("x-forwarded-for")}).encode()
        if self.path != "/stream":
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        self.wfile.flush()
        self.go_on.wait(30)
        self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")

    def log_message(self, *_: object) -> None: ...


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def behind(folder: Path, *, certificate: Path | None = None) -> Iterator[tuple[int, int]]:
    """The generated nginx.conf before the router of two replicas, for which a stand-in answers: its port and the router's."""
    nginx = tool("nginx")
    if nginx is None:
        pytest.skip("nginx is not here: make tools unpacks Debian's package into .venv/tools")
    port, router = free_ports(2)
    api = {"tls": certificate is not None}
    conf = launch_texts(*serving(SYSTEMD, TWO_GPUS, replicas=2, api=api))["launch/nginx.conf"]
    for generated, here in ((8000, port), (8003, router)):
        conf = re.sub(rf"\b{generated}\b", str(here), conf)
    conf = conf.replace("/run/nginx.pid", f"{folder}/nginx.pid").replace("/etc/llmc/tiny", str(folder))
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(conf.replace("http {", "http { " + paths), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", router), Replica)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [str(nginx), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;", "-e", "stderr"]
    process = subprocess.Popen(command, env=environment())
    try:
        _wait_for(port)
        yield port, router
    finally:
        process.terminate()
        process.wait(20)
        server.shutdown()


@pytest.fixture(scope="module")
def behind_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    with behind(tmp_path_factory.mktemp("nginx")) as ports:
        yield ports


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def post(port: int, path: str = "/v1/completions") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"content-type": "application/json", "x-forwarded-for": "9.9.9.9"}
    connection.request("POST", path, body=b"{}", headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("status", [200, 429, 503])
def test_nginx_hands_every_answer_back(
    behind_nginx: tuple[int, int], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """What another replica could take is the router's to know."""
    port, router = behind_nginx
    monkeypatch.setitem(Replica.status, router, status)
    found = [post(port) for _ in range(6)]
    assert {code for code, _ in found} == {status}
    assert {json.loads(body)["port"] for _, body in found} == {router}
    assert {json.loads(body)["for"] for _, body in found} == {"127.0.0.1"}, "not what clients say of themselves"


def test_nginx_speaks_https_where_the_server_does(tmp_path: Path) -> None:
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run([*made.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    with behind(tmp_path, certificate=cert) as (port, _):
        trusted = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=trusted)
        connection.request("POST", "/v1/completions", body=b"{}")
        assert connection.getresponse().status == 200


def test_nginx_holds_nothing_of_a_stream_back(behind_nginx: tuple[int, int]) -> None:
    port, _ = behind_nginx
    Replica.go_on.clear()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/stream", body=b"{}")
    response = connection.getresponse()
    assert response.read(5) == b"first"  # while the replica still holds the rest
    Replica.go_on.set()
    assert response.read() == b"second"


def test_nginx_keeps_the_metrics_of_replicas_inside(behind_nginx: tuple[int, int]) -> None:
    assert post(behind_nginx[0], "/metrics")[0] == 404


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_units_verify_and_a_replica_has_devices_of_its_own(tmp_path: Path) -> None:
    deploy = SYSTEMD | {"python": sys.executable, "user": "root"}
    texts = launch_texts(*serving(deploy, TWO_GPUS, replicas=2, api={"keys": True, "tls": True}))
    units = {Path(path).name: text for path, text in texts.items() if path.endswith((".service", ".target"))}
    assert set(units) == {"tiny-0.service", "tiny-1.service", "tiny-router.service", "tiny.target"}
    for name, text in units.items():
        (tmp_path / name).write_text(text.replace("/srv/tiny", str(tmp_path)), encoding="utf-8")
    found = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in units)],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    complaints = [line for line in found.stderr.splitlines() if "tiny" in line]
    assert complaints == []
    assert 'Environment="CUDA_VISIBLE_DEVICES=1"' in units["tiny-1.service"]
    assert "LoadCredential=tls.key:/etc/llmc/tiny/tls.key" in units["tiny-router.service"]
    assert units["tiny-1.service"].count("--keys %d/keys --probe-port 8102 --tls-cert %d/tls.crt") == 1
    assert '"--replica" "https://127.0.0.1:8002,https://127.0.0.1:8102"' in units["tiny-router.service"]
    assert 'Environment="OWN_VALUE=50 %% of \\"$HOME\\" \'x\'"' in units["tiny-1.service"]


def test_a_unit_waits_for_the_longest_answer() -> None:
    spec, plan = serving(SYSTEMD, cpus(1))
    unit = launch_texts(spec, plan)["launch/tiny-0.service"]
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert spec.serve is not None
    assert plan.serve is not None
    assert int(stop_s) > spec.serve.max_seq_len * plan.serve.predicted.tpot_p99_ms / 1e3


def test_compose_has_a_service_a_replica_and_the_router_knows_them() -> None:
    texts = launch_texts(*serving({"target": "docker", "environment": {"A": "x: 'y' #"}}, TWO_GPUS, replicas=2))
    (compose,) = objects(texts["launch/compose.yaml"])
    assert set(compose["services"]) == {"server-0", "server-1", "router", "nginx"}
    devices = compose["services"]["server-1"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "device_ids": ["1"], "capabilities": ["gpu"]}]
    assert compose["services"]["server-0"]["environment"] == {"A": "x: 'y' #"}
    words = compose["services"]["router"]["command"]
    assert [word for word in words if "server" in word] == ["http://server-0:8000", "http://server-1:8000"]
    assert "server router:8000;" in texts["launch/nginx.conf"]
    (one,) = objects(launch_texts(*serving({"target": "docker"}, cpus(1)))["launch/compose.yaml"])
    assert set(one["services"]) == {"server-0", "nginx"}


def test_compose_gives_keys_and_certificates_to_who_needs_them() -> None:
    api = {"keys": True, "tls": True, "requests_per_minute": 60}
    texts = launch_texts(*serving({"target": "docker"}, cpus(1), replicas=2, api=api))
    (compose,) = objects(texts["launch/compose.yaml"])
    assert set(compose["secrets"]) == {"keys", "tls.crt", "tls.key"}
    assert compose["services"]["nginx"]["secrets"] == ["tls.crt", "tls.key"]
    flags = ["--keys", "/run/secrets/keys", "--probe-port", "8100", "--tls-cert", "/run/secrets/tls.crt"]
    for name in ("server-0", "router"):
        words = compose["services"][name]["command"]
        start = words.index("--keys")
        assert words[start : start + 6] == flags
        assert words[words.index("--proxy") + 1] == "*"
        assert compose["services"][name]["secrets"] == ["keys", "tls.crt", "tls.key"]
    assert "https://127.0.0.1:8100/health/progress" in texts["launch/Dockerfile"]
    (scraping,) = objects(texts["launch/monitoring/prometheus.yaml"])
    replicas, router = scraping["scrape_configs"]
    assert replicas["static_configs"][0]["targets"] == ["server-0:8100", "server-1:8100"]
    assert (router["job_name"], router["static_configs"][0]["targets"]) == ("tiny-router", ["router:8100"])
    assert replicas["scheme"] == "https"


@pytest.mark.parametrize(
    ("hardware", "options", "has_kernels"),
    [
        (cpus(1), {"weights": "int8"}, True),
        (cpus(1), {"weights": "fp32"}, False),
        (TWO_GPUS, {"tp": 1}, True),
        (TWO_GPUS, {"tp": 2}, False),
    ],
    ids=["C++", "PyTorch", "Triton", "two ranks"],
)
def test_servers_compile_kernels_in_the_one_place_that_they_may_write(
    hardware: dict[str, Any], options: dict[str, Any], has_kernels: bool
) -> None:
    texts = launch_texts(*serving({"target": "docker"}, hardware, **options))
    (compose,) = objects(texts["launch/compose.yaml"])
    server = compose["services"]["server-0"]
    assert (server["read_only"], server["tmpfs"]) == (True, ["/tmp:exec"] if has_kernels else ["/tmp"])
    assert ("--no-install-recommends g++" in texts["launch/Dockerfile"]) == has_kernels
    assert ("ENV XDG_CACHE_HOME=/tmp/cache TRITON_HOME=/tmp/cache\n" in texts["launch/Dockerfile"]) == has_kernels
    unit = launch_texts(*serving(SYSTEMD, hardware, **options))["launch/tiny-0.service"]
    where = "CacheDirectory=tiny\nEnvironment=XDG_CACHE_HOME=%C/tiny TRITON_HOME=%C/tiny\n"
    assert (where in unit) == has_kernels


@pytest.mark.parametrize("sections", ["serve", "train"])
def test_dockerfiles_pass_hadolint(sections: str, tmp_path: Path) -> None:
    deploy = {"target": "kubernetes", "image": "registry.example/tiny"}
    spec, plan = serving(deploy, cpus(1)) if sections == "serve" else training(deploy, cpus(2))
    (tmp_path / "Dockerfile").write_text(launch_texts(spec, plan)["launch/Dockerfile"], encoding="utf-8")
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([str(hadolint), "Dockerfile"], cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")
