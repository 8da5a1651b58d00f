"""The generated script of a queued resource, with stand-ins for gcloud, curl and the hosts of two slices."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from trees import launch_texts, tpus, training, write_launch

DEPLOY: dict[str, Any] = {
    "target": "queued_resource",
    "project": "research",
    "zone": "us-east5-a",
    "run_dir": "/mnt/runs/tiny",
    "environment": {"OWN_VALUE": "a 'b' $HOME"},
}
GCLOUD = """\
#!/usr/bin/env bash
# Each slice is a folder, its only host. The chips are there at the second look; `SUSPENDED` follows a failed start.
echo "$*" >>"$CLOUD/calls"
case "$*" in
    "auth print-access-token") echo token ;;
    *"queued-resources describe"*)
        [[ -f "$CLOUD/state" ]] || exit 1
        cat "$CLOUD/state"
        echo ACTIVE >"$CLOUD/state" ;;
    *"queued-resources delete"*) rm "$CLOUD/state" ;;
    *"tpu-vm describe"*) echo 10.0.0.1 ;;
    *"tpu-vm scp"*)
        for each in "$@"; do case "$each" in tiny-*:*) target=$each ;; *program*) source=$each ;; esac; done
        mkdir -p "$CLOUD/${target%%:*}" && cp -r "$source" "$CLOUD/${target%%:*}/${target##*:}" ;;
    *"tpu-vm ssh"*)
        mkdir -p "$CLOUD/$5" && cd "$CLOUD/$5" && bash -c "${7#--command=}" ;;
esac
"""
CURL = """\
#!/usr/bin/env bash
echo "${@: -1}" >>"$CLOUD/asked"
echo WAITING_FOR_RESOURCES >"$CLOUD/state"
"""
PYTHON = """\
#!/usr/bin/env bash
if [[ "$2" == pip ]]; then exit 0; fi
echo "$(printf '%s|' "$PWD" "$MASTER_ADDR" "$OWN_VALUE" "$@")" >>"$CLOUD/started"  # one write: slices start together
if [[ "$PWD" == */tiny-1/* && ! -f "$CLOUD/failed" ]]; then
    touch "$CLOUD/failed" && echo SUSPENDED >"$CLOUD/state" && exit 1
fi
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    for name, text in {"gcloud": GCLOUD, "curl": CURL, "python3": PYTHON}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "cloud").mkdir()
    return tmp_path / "cloud"


def run(cloud: Path, *arguments: str) -> str:
    script = cloud.parent / "program/launch/queued_resource.sh"
    path = f"{cloud.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CLOUD": str(cloud), "POLL_S": "0"}
    done = subprocess.run(["bash", script, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_chips_are_asked_for_the_program_sent_and_started_again_when_chips_are_taken_back(cloud: Path) -> None:
    write_launch(*training(DEPLOY, tpus("tpu-v5p", "2x2x1", slices=2)), cloud.parent / "program")
    run(cloud, "--max-steps", "5")
    asked = (cloud / "asked").read_text().splitlines()
    place = "https://tpu.googleapis.com/v2/projects/research/locations/us-east5-a/queuedResources?queuedResourceId=tiny"
    assert asked == [place, place]  # again when they were suspended
    started = [line.split("|")[:-1] for line in (cloud / "started").read_text().splitlines()]
    command = ["10.0.0.1", "a 'b' $HOME", "train.py", "--resume", "--run-dir", "/mnt/runs/tiny", "--max-steps", "5"]
    folders = sorted([str(cloud / node / "tiny"), *command] for node in ("tiny-0", "tiny-1") for _ in range(2))
    assert sorted(started) == folders
    assert all((cloud / node / "tiny/train.py").exists() for node in ("tiny-0", "tiny-1"))
    run(cloud, "delete")
    assert "queued-resources delete tiny" in (cloud / "calls").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, {"guaranteed": {}}),
        ({"spot": True}, {"spot": {}}),
        (
            {"reservation": "ours"},
            {"guaranteed": {}, "reservationName": "projects/research/locations/us-east5-a/reservations/ours"},
        ),
    ],
)
def test_the_request_names_shape_tier_and_image(fields: dict[str, Any], tier: dict[str, Any]) -> None:
    spec, plan = training({**DEPLOY, **fields}, tpus("tpu-v6e", "4x8"))
    request = json.loads(launch_texts(spec, plan)["launch/queued_resource.json"])
    (node,) = request.pop("tpu")["nodeSpec"]
    assert request == tier
    assert node == {
        "parent": "projects/research/locations/us-east5-a",
        "nodeId": "tiny",
        "node": {"acceleratorConfig": {"type": "V6E", "topology": "4x8"}, "runtimeVersion": "v2-alpha-tpuv6e"},
    }
