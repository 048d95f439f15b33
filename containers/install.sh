#!/bin/sh
# The steps that Dockerfile and apptainer.def have in common, so that both images hold the same versions.
#
#   install.sh list FLAVOUR PYPROJECT                       prints what has to be installed
#   install.sh dependencies FLAVOUR REQUIREMENTS CONSTRAINTS    installs that into /opt/hpcbench
#   install.sh package SOURCE PREFIX                        builds hpcbench, and installs its wheel into PREFIX
#   install.sh compile                                      compiles what is used of the standard library
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
extras = {"cuda": ["train", "nvidia"], "cpu": ["train"], "none": []}
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

# Leaves out what hpcbench has no use for: tests; of Arrow headers, what speaks to services, and copies of a library
# under other names; of plotly everything but the script that reports carry.
trim() {
    find "$VENV" -type d -name tests -prune -exec rm -rf {} +
    for package in "$VENV"/lib/python3.*/site-packages/pyarrow; do
        rm -rf "$package/include"
        rm -f "$package/libarrow_python.so" "$package"/libarrow_python.so.*.*
        for part in flight substrait s3; do
            rm -f "$package/libarrow_$part"* "$package/_$part"*
        done
    done
    for package in "$VENV"/lib/python3.*/site-packages/plotly; do
        rm -rf "$package/graph_objs" "$package/validators" "$package/labextension" \
            "$package/package_data/datasets" "$package/package_data/widgetbundle.js"
    done
}

# Compiles what commands and ranks use of the standard library: the folder is read-only afterwards, and official
# images bring it uncompiled, which would cost each start half a second.
compile() {
    "$VENV/bin/python" -c '
import sys

import hpcbench.cli, matplotlib.pyplot, pandas, pydantic, submitit
try:
    import torch
except ImportError:
    pass
import py_compile

for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None) or ""
    if path.startswith(sys.base_prefix) and path.endswith(".py"):
        py_compile.compile(path)
'
}

package() {
    source=$1 prefix=$2
    pip wheel --no-deps --wheel-dir "$source/wheel" "$source"
    pip --python "$VENV/bin/python" install --no-deps --no-index --prefix "$prefix" "$source"/wheel/*.whl
}

"$@"
