#!/usr/bin/env bash
# Gradescope runs this once, when it builds the autograder's image.
#
# To make the archive that Gradescope asks for, in this repository:
#
#   mkdir -p build/gradescope
#   python3 -m instructor.make_handout --out build     # with the course's --parts: its tests
#   cp -r submission.py model.py data_utils.py pyproject.toml requirements.txt dataset \
#       build/handout/tests instructor/gradescope/setup.sh instructor/gradescope/run_autograder build/gradescope/
#   mkdir build/gradescope/instructor
#   (cd instructor && cp __init__.py pytest_sandbox.py sandbox.py sandbox_check.py seccomp.py \
#       requirements.txt ../build/gradescope/instructor/)
#   python3 -c "import secrets; print(secrets.randbelow(2**31))" > build/gradescope/seed.txt
#   (cd build/gradescope && python3 -m zipfile -c ../gradescope.zip *)
#
# and upload build/gradescope.zip. The submission.py in it is the solved one: with a secret seed
# the expected values come from it. seed.txt is the secret seed; keep it, do not commit it.
# As base image choose Ubuntu 24.04 or later (Python 3.11 is the oldest that works); give the
# container 2 GB of memory. Students upload submission.py alone.
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
