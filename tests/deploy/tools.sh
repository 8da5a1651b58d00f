#!/usr/bin/env bash
# Slurm, promtool and nginx from Debian's packages, unpacked below .venv/tools: nothing is installed, no root is needed.
# Ray in an environment of its own, which sees .venv's packages: it has thirty dependencies that nothing else here needs.
# What cannot be had is left out; the tests that would use it are skipped by its name.
set -euo pipefail
cd "$(dirname "$0")/../.."
TOOLS=.venv/tools
mkdir -p "$TOOLS"

debian() {
    local work
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "no Debian here"; return 1; }
    work="$(mktemp -d)"
    # lists of our own, so that neither root nor a recent `apt-get update` is needed
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    local options=(-qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=root")
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" download slurmctld slurmd slurm-client slurm-wlm-basic-plugins \
        munge libmunge2 libhwloc15 liblua5.1-0 prometheus nginx)
    rm -rf "$TOOLS/debian.new" && mkdir "$TOOLS/debian.new"
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$TOOLS/debian.new"
    done
    rm -f "$TOOLS/debian.new/usr/bin/prometheus"  # 100 MB; promtool is what is used
    rm -rf "$TOOLS/debian" "$work" && mv "$TOOLS/debian.new" "$TOOLS/debian"
}

ray() {
    local version packages
    version="$(sed -n 's/^ray==//p' constraints.txt)"
    packages="$(cd .venv/lib/python3*/site-packages && pwd)"
    rm -rf "$TOOLS/ray" && python3 -m venv "$TOOLS/ray"
    echo "import site; site.addsitedir('$packages')" >"$(echo "$TOOLS"/ray/lib/python3*/site-packages)/llmc.pth"
    "$TOOLS/ray/bin/pip" install -q -c constraints.txt -c tests/deploy/ray.txt "ray[train,serve]==$version"
}

[[ -d "$TOOLS/debian" ]] || debian || echo "Debian's packages cannot be had: tests with Slurm, promtool and nginx are skipped"
[[ -x "$TOOLS/ray/bin/ray" ]] || ray || { rm -rf "$TOOLS/ray"; echo "Ray cannot be had: its tests are skipped"; }
