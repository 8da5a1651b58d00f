"""What is generated for a machine of one's own: nginx before two replicas, units of systemd, a Dockerfile, a compose file."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
        body = json.dumps({"port": port}).encode()
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


@pytest.fixture(scope="module")
def behind_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, list[int]]]:
    """The generated nginx.conf before two replicas: its port and theirs."""
    nginx = tool("nginx")
    if nginx is None:
        pytest.skip("nginx is not here: make tools unpacks Debian's package into .venv/tools")
    folder = tmp_path_factory.mktemp("nginx")
    port, *replicas = free_ports(3)
    conf = launch_texts(*serving(SYSTEMD, TWO_GPUS, replicas=2))["launch/nginx.conf"]
    for generated, here in ((8000, port), (8001, replicas[0]), (8002, replicas[1])):
        conf = re.sub(rf"\b{generated}\b", str(here), conf)
    conf = conf.replace("/run/nginx.pid", f"{folder}/nginx.pid")
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(conf.replace("http {", "http { " + paths), encoding="utf-8")
    servers = [ThreadingHTTPServer(("127.0.0.1", each), Replica) for each in replicas]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [str(nginx), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;", "-e", "stderr"]
    process = subprocess.Popen(command, env=environment())
    try:
        _wait_for(port)
        yield port, replicas
    finally:
        process.terminate()
        process.wait(20)
        for server in servers:
            server.shutdown()


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
    connection.request("POST", path, body=b"{}", headers={"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


def test_nginx_spreads_requests(behind_nginx: tuple[int, list[int]]) -> None:
    port, replicas = behind_nginx
    assert {json.loads(post(port)[1])["port"] for _ in range(6)} == set(replicas)


def test_nginx_hands_on_what_a_stuck_or_draining_replica_refuses(
    behind_nginx: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, replicas = behind_nginx
    monkeypatch.setitem(Replica.status, replicas[0], 503)
    found = [post(port) for _ in range(6)]
    assert {code for code, _ in found} == {200}
    assert {json.loads(body)["port"] for _, body in found} == {replicas[1]}
    time.sleep(6)  # fail_timeout: nginx asks the other again


def test_under_overload_clients_are_told_so_and_replicas_stay_in(
    behind_nginx: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, replicas = behind_nginx
    for each in replicas:
        monkeypatch.setitem(Replica.status, each, 429)
    found = [post(port) for _ in range(12)]
    assert {code for code, _ in found} == {429}
    assert {json.loads(body)["port"] for _, body in found} == set(replicas)


def test_nginx_holds_nothing_of_a_stream_back(behind_nginx: tuple[int, list[int]]) -> None:
    port, _ = behind_nginx
    Replica.go_on.clear()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/stream", body=b"{}")
    response = connection.getresponse()
    assert response.read(5) == b"first"  # while the replica still holds the rest
    Replica.go_on.set()
    assert response.read() == b"second"


def test_nginx_keeps_the_metrics_of_replicas_inside(behind_nginx: tuple[int, list[int]]) -> None:
    assert post(behind_nginx[0], "/metrics")[0] == 404


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_units_verify_and_a_replica_has_devices_of_its_own(tmp_path: Path) -> None:
    texts = launch_texts(*serving(SYSTEMD | {"python": sys.executable, "user": "root"}, TWO_GPUS, replicas=2))
    units = {Path(path).name: text for path, text in texts.items() if path.endswith((".service", ".target"))}
    assert set(units) == {"tiny-0.service", "tiny-1.service", "tiny.target"}
    for name, text in units.items():
        (tmp_path / name).write_text(text.replace("/srv/tiny", str(tmp_path)), encoding="utf-8")
    found = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in units)],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    complaints = [line for line in found.stderr.splitlines() if "tiny" in line]
    assert complaints == []
    assert 'Environment="CUDA_VISIBLE_DEVICES=1"' in units["tiny-1.service"]
    assert 'Environment="OWN_VALUE=50 %% of \\"$HOME\\" \'x\'"' in units["tiny-1.service"]


def test_a_unit_waits_for_the_longest_answer() -> None:
    spec, plan = serving(SYSTEMD, cpus(1))
    unit = launch_texts(spec, plan)["launch/tiny-0.service"]
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert spec.serve is not None
    assert plan.serve is not None
    assert int(stop_s) > spec.serve.max_seq_len * plan.serve.predicted.tpot_p99_ms / 1e3


def test_compose_has_a_service_a_replica_and_nginx_knows_them() -> None:
    texts = launch_texts(*serving({"target": "docker", "environment": {"A": "x: 'y' #"}}, TWO_GPUS, replicas=2))
    (compose,) = objects(texts["launch/compose.yaml"])
    assert set(compose["services"]) == {"server-0", "server-1", "nginx"}
    devices = compose["services"]["server-1"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "device_ids": ["1"], "capabilities": ["gpu"]}]
    assert compose["services"]["server-0"]["environment"] == {"A": "x: 'y' #"}
    assert set(re.findall(r"server (server-\d:\d+)", texts["launch/nginx.conf"])) == {"server-0:8000", "server-1:8000"}


@pytest.mark.parametrize("sections", ["serve", "train"])
def test_dockerfiles_pass_hadolint(sections: str, tmp_path: Path) -> None:
    deploy = {"target": "kubernetes", "image": "registry.example/tiny"}
    spec, plan = serving(deploy, cpus(1)) if sections == "serve" else training(deploy, cpus(2))
    (tmp_path / "Dockerfile").write_text(launch_texts(spec, plan)["launch/Dockerfile"], encoding="utf-8")
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([str(hadolint), "Dockerfile"], cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")
