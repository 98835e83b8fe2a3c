#!/usr/bin/env bash
# bash envs/install.sh [cpu | gpu-cu12 | gpu-cu13 | quality]
#
# Creates .venv in the repository with that environment (cpu unless told) and this project in it; called again, it repairs or
# updates them. PYTHON=/path/to/python3 names the interpreter, otherwise the first on PATH for which the pins are made.
# quality is a second environment, in .venv/quality, which sees what .venv holds. The key quality.tasks needs it.
set -euo pipefail

fail() {
    echo "envs/install.sh: $1" >&2
    exit 1
}

environment=${1:-cpu}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case $environment in
cpu) oldest=11 ;;
gpu-cu12 | gpu-cu13) oldest=12 ;;
quality) ;;
*) fail "there is no environment '$environment'; use cpu, gpu-cu12, gpu-cu13 or quality." ;;
esac

if [ "$environment" = quality ]; then
    [ -x .venv/bin/python ] || fail "quality stands beside another environment in .venv; install that first (bash envs/install.sh)."
    echo "envs/install.sh: installing the environment 'quality' into .venv/quality, which takes minutes the first time"
    .venv/bin/python -m venv --without-pip .venv/quality
    .venv/bin/python - <<'END'
import sysconfig
from pathlib import Path

own = sysconfig.get_path("purelib", "venv", vars={"base": ".venv/quality", "platbase": ".venv/quality"})
Path(own, "main.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n", encoding="utf-8")
END
    # What .venv holds already is not installed again. Three packages have no wheel; setuptools of .venv builds them.
    .venv/bin/python -m pip --python .venv/quality/bin/python install --quiet --disable-pip-version-check --no-input \
        --no-deps --no-build-isolation --require-hashes --requirement envs/quality.txt
    exit
fi

for python in ${PYTHON:-python3 python3.12 python3.11 python3.13} none; do
    "$python" -c "import sys; sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null && break
done
[ "$python" != none ] || fail "'$environment' needs Python 3.$oldest to 3.13; install one, or name it with PYTHON=/path/to/python3."

if [ -e .venv ] && [ "$(cat .venv/environment 2>/dev/null)" != "$environment" ]; then
    fail ".venv holds something other than '$environment'; remove it (rm -r .venv) and call this again."
fi
if [ "$environment" = cpu ] && ! "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    fail "vLLM on the CPU needs libnuma.so.1; install it (Debian, Ubuntu: apt-get install libnuma1; Fedora: dnf install numactl-libs)."
fi

if [ ! -e .venv ]; then
    "$python" -m venv .venv || { rm -rf .venv; fail "could not make .venv (Debian, Ubuntu: apt-get install python3-venv)."; }
    echo "$environment" >.venv/environment
fi

echo "envs/install.sh: installing the environment '$environment' into .venv, which takes minutes the first time"
install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps)
if [ "$environment" = cpu ]; then
    # The CPU build of torch is on PyTorch's own index. Only torch is looked up there: where that index cannot be reached,
    # pip would lose 8 seconds on every package.
    # Its wheel differs with Python and with who built it, so its hash is not checked; those of all others are.
    torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' envs/cpu.txt)
    "${install[@]}" --retries 2 --extra-index-url https://download.pytorch.org/whl/cpu "$torch" ||
        fail "could not install $torch; make https://download.pytorch.org/whl/cpu reachable, or set PIP_FIND_LINKS to a folder with its wheel."
fi
"${install[@]}" --require-hashes --requirement "envs/$environment.txt"
"${install[@]}" --no-build-isolation --editable .
