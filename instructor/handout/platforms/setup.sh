#!/usr/bin/env bash
# Gradescope runs this once, when it builds the autograder's image.
#
# `python -m instructor gradescope` makes the archive that holds this file, run_autograder, the kit
# and the secret seed; its --help says what to do with it. Python 3.11 is the oldest that works.
set -euo pipefail
root=${AUTOGRADER_ROOT:-/autograder}

# On Linux the default torch brings CUDA along (gigabytes). A CPU-only build does as well: put
# the address of PyTorch's CPU index here (their installation page has it), or leave it empty.
torch_cpu_index=

apt-get update
apt-get install -y bubblewrap python3 python3-venv util-linux
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or later is needed; choose a newer base image" >&2
    exit 1
}
python3 -m venv "$root/venv"
cd "$root/source"
if [[ -n $torch_cpu_index ]]; then
    "$root/venv/bin/python3" -m pip install --index-url "$torch_cpu_index" \
        "$(grep '^torch==' requirements.txt)"
fi
"$root/venv/bin/python3" -m pip install -r requirements.txt
"$root/venv/bin/python3" -m pip install "$(grep '^psutil' instructor/requirements.txt)"
