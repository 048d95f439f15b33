#!/bin/sh
# The steps that Dockerfile and apptainer.def have in common, so that both images hold the same versions.
#
#   install.sh list FLAVOUR PYPROJECT                       prints what has to be installed
#   install.sh dependencies FLAVOUR REQUIREMENTS CONSTRAINTS    installs that into /opt/hpcbench
#   install.sh package SOURCE PREFIX                        builds hpcbench, and installs its wheel into PREFIX
#
# FLAVOUR: cuda (torch as the package index has it), cpu (torch from $CPU_INDEX), none (no torch).
set -eu

VENV=/opt/hpcbench

# pip stays outside of the environment that it fills.
pip() { python3 -m pip --disable-pip-version-check --no-input "$@"; }

list() {
    python3 - "$1" "$2" <<'PYTHON'
import sys
import tomllib

flavour, path = sys.argv[1:]
extras = {"cuda": ["train"], "cpu": ["train"], "none": []}
if flavour not in extras:
    sys.exit(f"FLAVOUR={flavour}: it can be {', '.join(extras)}")
with open(path, "rb") as file:
    project = tomllib.load(file)["project"]
wanted = project["dependencies"] + [each for name in extras[flavour] for each in project["optional-dependencies"][name]]
print("\n".join(sorted(wanted)))
PYTHON
}

dependencies() {
    flavour=$1 requirements=$2 constraints=$3
    python3 -m venv --without-pip "$VENV"
    if [ "$flavour" = cpu ] && grep -q '^torch' "$requirements"; then
        # First, and alone: the rest comes from the usual index. An empty CPU_INDEX: pip knows another way.
        pip --python "$VENV/bin/python" install --constraint "$constraints" \
            ${CPU_INDEX:+--extra-index-url "$CPU_INDEX"} torch torchvision
    fi
    pip --python "$VENV/bin/python" install --constraint "$constraints" --requirement "$requirements"
    trim
}

# Leaves out what hpcbench has no use for: the tests of packages, and of Arrow its headers and what speaks to
# services (pyarrow does without).
trim() {
    find "$VENV" -type d -name tests -prune -exec rm -rf {} +
    for package in "$VENV"/lib/python3.*/site-packages/pyarrow; do
        rm -rf "$package/include"
        for part in flight substrait s3; do
            rm -f "$package/libarrow_$part"* "$package/_$part"*
        done
    done
}

package() {
    source=$1 prefix=$2
    pip wheel --no-deps --wheel-dir "$source/wheel" "$source"
    pip --python "$VENV/bin/python" install --no-deps --no-index --prefix "$prefix" "$source"/wheel/*.whl
}

"$@"
