"""A generated server touches what its surface.json lists, and nothing else: an audit hook in its process keeps the books."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest
import torch
from programs import build, imported, plan_of, tiny_spec
from served import save_tokenizer

from llmc.runtimes.pytorch.weights import save_weights
from llmc.runtimes.serving.keys import new_key

AUDIT = """
import atexit, json, os, runpy, sys

EVENTS = ("open", "socket.bind", "socket.connect", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.system",
          "os.fork", "pickle.find_class", "marshal.loads", "ctypes.dlopen", "shutil.rmtree", "os.remove", "os.rename",
          "os.mkdir", "socket.sendto", "urllib.Request")
seen = []

def hook(event, args):
    if event not in EVENTS:
        return
    if event == "marshal.loads" and sys._getframe(1).f_code.co_filename == "<frozen importlib._bootstrap_external>":
        return  # a module's own bytecode, from beside its source
    if event == "open":
        path, mode, flags = args
        if isinstance(path, int):
            return
        writes = any(c in (mode or "") for c in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        seen.append(["write" if writes else "read", os.path.realpath(os.fsdecode(path))])
    else:
        seen.append([event, repr(args[1] if event.startswith("socket") else args[0])])

sys.addaudithook(hook)
out = os.open(os.environ["AUDIT_LOG"] + os.environ.get("RANK", ""), os.O_WRONLY | os.O_CREAT)
tell, leave = (lambda: os.write(out, json.dumps(seen).encode())), os._exit
atexit.register(tell)
os._exit = lambda status: (tell(), leave(status))  # as processes of several ranks end
seen.clear()
sys.path.insert(0, os.getcwd())
sys.argv = ["serve.py", *sys.argv[1:]]
runpy.run_path("serve.py", run_name="__main__")
"""
OF_THE_SYSTEM = ("/proc/", "/sys/", "/etc/", "/dev/", "/usr/", "/lib/")
"""Of the kernel, the C library, the locale and the interpreter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("surface")
    serve = {
        "max_seq_len": 128,
        "weights": {"dtype": "fp32"},
        "api": {"keys": True, "requests_per_minute": 1000},
        "ui": True,
    }
    spec = tiny_spec(without=("train", "data"), serve=serve)
    build(spec, path / "build")
    build(spec, path / "cut", plan=plan_of(spec, tp=2))
    with imported(path / "build", "model") as (module,):
        torch.manual_seed(0)
        save_weights(module.Model(), path / "weights")
    save_tokenizer(path / "weights")
    return path


@pytest.fixture(scope="module")
def session(folder: Path) -> tuple[dict, list[list[str]], dict[str, list[int]], list[dict]]:
    """surface.json; what the process did; the status of each route without and with a key; and its answers."""
    surface = json.loads((folder / "build/surface.json").read_text())
    key, line = new_key("ann")
    (folder / "keys").write_text(line + "\n")
    flags = ["--weights", "../weights", "--keys", "../keys", "--port", "0", "--probe-port", "0", "--threads", "1"]
    process = start(folder / "build", *flags, log="audit.json")
    assert process.stdout is not None
    probes = process.stdout.readline().removeprefix("probes on ").strip()
    url = process.stdout.readline().removeprefix("serving on ").strip()
    assert url, process.communicate(timeout=20)[1]
    statuses = {}
    with httpx.Client(base_url=url, timeout=30) as client:
        for route in surface["routes"]:
            path = route["path"].replace("{name}", "tiny")
            sent = {"model": "tiny", "max_tokens": 3, "stream": True, "temperature": 1, "top_p": 0.9}
            sent |= {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {"prompt": "a"}
            asked = {"json": sent} if "POST" in route["methods"] else {}
            authorised = {"authorization": f"Bearer {key}"}
            statuses[route["path"]] = [
                client.request(route["methods"][0], path, headers=headers, **asked).status_code
                for headers in ({}, authorised)
            ]
        for path in (
            "/chat_page.html",
            "/docs",
            "/metrics/",
            "/v1/embeddings",
            "/v1/files",
            "/admin",
            "/..%2f..%2fetc/passwd",
        ):
            statuses[path] = [client.get(path, headers={"authorization": f"Bearer {key}"}).status_code]
    for path in (*surface["routes_of_probe_port"], "/", "/v1/models", "/openapi.json", "/metrics/"):
        statuses[f"probe {path}"] = [httpx.get(f"{probes}{path}").status_code]
    answers = ask_greedily(url, key)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return surface, json.loads((folder / "audit.json").read_text()), statuses, answers


def start(build: Path, *flags: str, log: str) -> subprocess.Popen:
    command = [sys.executable, "-B", "-c", AUDIT, *flags]
    environment = {**os.environ, "AUDIT_LOG": str(build.parent / log)}
    return subprocess.Popen(
        command, cwd=build, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_every_route_is_there_and_asks_for_a_key_where_it_says_so(session):
    surface, _, statuses, _ = session
    for route in surface["routes"]:
        without, authorised = statuses[route["path"]]
        assert without == (401 if route["needs_key"] else 200), route
        assert authorised == 200, route
    listed = {route["path"] for route in surface["routes"]}
    listed |= {f"probe {path}" for path in surface["routes_of_probe_port"]}
    assert all(status == [404] for path, status in statuses.items() if path not in listed)
    assert all(statuses[f"probe {path}"] == [200] for path in surface["routes_of_probe_port"])


def test_it_listens_where_it_says_and_connects_to_nobody(session):
    surface, events, _, _ = session
    binds = [what for event, what in events if event == "socket.bind"]
    assert len(binds) == len(surface["sockets"]["listens"]) == 2
    assert all(each.startswith("('127.0.0.1', ") for each in binds)
    assert [event for event in events if event[0] in ("socket.connect", "socket.sendto", "urllib.Request")] == []


def test_it_reads_what_is_listed_and_writes_nothing(session, folder: Path, root: Path):
    surface, events, _, _ = session
    assert surface["files"]["writes"] == []
    assert [what for event, what in events if event == "write" and what != "/dev/null"] == []
    assert [event for event in events if event[0] in ("os.remove", "os.rename", "os.mkdir", "shutil.rmtree")] == []
    others = reads_beyond_code(events, folder / "build", root)
    weights = {str(path) for path in (folder / "weights").iterdir()}
    assert str(folder / "keys") in others
    assert others <= weights | {str(folder / "keys"), str(folder / "weights")}


def test_no_pickle_no_marshal_and_one_kind_of_process(session):
    surface, events, _, _ = session
    assert not any("pickle" in each.lower() for each in surface["deserialisers"])
    assert [event for event in events if event[0] in ("pickle.find_class", "marshal.loads", "os.system")] == []
    started = [event for event in events if event[0] in ("subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn")]
    assert {what for _, what in started} <= {repr(sys.executable)}
    assert len(started) == len(surface["processes"])


def reads_beyond_code(events: list[list[str]], build: Path, root: Path) -> set[str]:
    places = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sys.prefix, sys.base_prefix, str(root)]
    code = (*(os.path.realpath(place) for place in places), *OF_THE_SYSTEM, str(build))
    return {what for event, what in events if event == "read" and not what.startswith(code)}


GREEDY = {
    "model": "tiny",
    "prompt": ["a", "Where to?", "ab" * 20],
    "max_tokens": 12,
    "temperature": 0,
    "ignore_eos": True,
    "logprobs": 2,
}


def ask_greedily(url: str, key: str) -> list[dict]:
    """The choices of an answer."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/completions", json=GREEDY, headers=headers, timeout=60).json()["choices"]


Books = list[list[list[str]]]


@pytest.fixture(scope="module")
def cut(folder: Path, session) -> tuple[dict, Books, list[dict]]:
    """Of a server of two ranks: surface.json; what each rank did; its answers."""
    key, line = new_key("ann")
    (folder / "keys").write_text(line + "\n")
    flags = ["--weights", "../weights", "--keys", "../keys", "--port", "0", "--probe-port", "0"]
    process = start(folder / "cut", *flags, log="audit-of-cut.json")
    assert process.stdout is not None
    process.stdout.readline()
    url = process.stdout.readline().removeprefix("serving on ").strip()
    assert url, process.communicate(timeout=20)[1]
    answers = ask_greedily(url, key)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    books = [json.loads((folder / f"audit-of-cut.json{rank}").read_text()) for rank in ("", "1")]
    return json.loads((folder / "cut/surface.json").read_text()), books, answers


def test_a_server_of_two_ranks_answers_as_one_of_one_device(session, cut):
    for alone, together in zip(session[3], cut[2], strict=True):
        assert together["text"] == alone["text"]
        found, expected = (each["logprobs"]["token_logprobs"] for each in (together, alone))
        assert found == pytest.approx(expected, abs=1e-4)


def test_its_ranks_listen_and_connect_where_it_says(cut):
    surface, (first, second), _ = cut
    binds = [what for event, what in first if event == "socket.bind"]
    assert len(binds) == len(surface["sockets"]["listens"]) == 3
    assert all(each.startswith("('127.0.0.1', ") for each in binds)
    assert [event for event in first if event[0] in ("socket.connect", "socket.sendto", "urllib.Request")] == []
    assert [event for event in second if event[0] in ("socket.bind", "socket.sendto", "urllib.Request")] == []
    (connected,) = (what for event, what in second if event == "socket.connect")
    assert connected.startswith("('127.0.0.1', ")


def test_its_ranks_read_write_and_start_what_is_listed(cut, folder: Path, root: Path):
    surface, (first, second), _ = cut
    assert len(surface["files"]["writes"]) == 1
    (made,) = (what for event, what in first if event == "os.mkdir")
    assert "llmc-" in made
    assert [made in what for event, what in first if event == "shutil.rmtree"] == [True]
    weights = {str(path) for path in (folder / "weights").iterdir()}
    known = weights | {str(folder / "keys"), str(folder / "weights"), made.strip("'")}
    for events in (first, second):
        assert [what for event, what in events if event == "write" and what != "/dev/null"] == []
        assert reads_beyond_code(events, folder / "cut", root) <= known
        assert [event for event in events if event[0] in ("pickle.find_class", "marshal.loads", "os.system")] == []
    assert [event for event in second if event[0] in ("subprocess.Popen", "os.fork", "os.mkdir", "os.remove")] == []
    started = [event for event in first if event[0] in ("subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn")]
    assert {what for _, what in started} <= {repr(sys.executable)}
    assert len(started) == len(surface["processes"]) - 1, "nobody has asked for a chat"
