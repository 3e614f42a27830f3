#!/usr/bin/env bash
# Installs what is missing, and says nothing when nothing is. Debian 12, as root or with sudo.
#   tests/setup.sh build     compilers, libraries, generators and the data packages (apt)
#   tests/setup.sh oracle    build/venv: NumPy, JAX on the CPU, safetensors (pip)
#   tests/setup.sh cuda      build/nvrtc: NVIDIA's compiler library, where the system has none (pip)
#   tests/setup.sh network   what makes hosts of namespaces, for tests/bench/alltoall.sh (apt)
#   tests/setup.sh slurm     Slurm, for tests/runtime/check_slurm.py, which starts it on such hosts (apt)
#   tests/setup.sh peers     build/peers: PyTorch too, for tests/bench (about 5 GB on disk)
# Several may be given. apt-get update runs only when a package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

build_packages=(
    gcc g++ libc6-dev make pkg-config meson ninja-build flex bison git
    clang libclang-rt-dev clang-format
    libopenblas-pthread-dev libdnnl2 libxxhash-dev coinor-libclp-dev
    libjansson-dev libpng-dev libjpeg62-turbo-dev libharfbuzz-dev
    libexpat1-dev libutf8proc-dev libhwloc-dev libopenmpi-dev openmpi-bin
    fonts-noto-color-emoji unicode-cldr-core python3
)
python_packages=(python3 python3-venv)
network_packages=(iproute2 util-linux openssh-client)
slurm_packages=(iproute2 util-linux munge slurm-wlm)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_need() {
    local missing=() p
    command -v dpkg-query >/dev/null || {
        echo "setup: not a Debian system; please install: $*" >&2
        return 0
    }
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return 0
    echo "setup: installing ${missing[*]}" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "${missing[@]}" >&2
}

# A virtual environment that records what it was asked to hold; any change builds it anew.
venv() {
    local dir=$1
    shift
    [ "$(cat "$dir/.asked" 2>/dev/null)" = "$*" ] && "$dir/bin/python" -c '' 2>/dev/null && return 0
    echo "setup: making $dir with $*" >&2
    rm -rf "$dir"
    mkdir -p "$(dirname "$dir")"
    python3 -m venv "$dir"
    "$dir/bin/pip" install -q --disable-pip-version-check "$@" >&2
    echo "$*" >"$dir/.asked"
}

# Where codegen/nvrtc.c looks for it.
have_nvrtc() {
    local library libraries=({"","${CUDA_HOME:-/usr/local/cuda}/lib64/"}libnvrtc.so.1{3,2})
    [ -n "${M6C_NVRTC:-}" ] && libraries=("$M6C_NVRTC")
    for library in "${libraries[@]}"; do
        python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$library" 2>/dev/null && return 0
    done
    return 1
}

oracle_wheels=(numpy==2.4.6 jax==0.10.2 jaxlib==0.10.2 safetensors==0.8.0)

[ $# -gt 0 ] || { echo "usage: tests/setup.sh build|oracle|cuda|network|slurm|peers ..." >&2; exit 2; }
for what in "$@"; do
    case $what in
    build) apt_need "${build_packages[@]}" ;;
    oracle)
        apt_need "${python_packages[@]}"
        venv build/venv "${oracle_wheels[@]}"
        ;;
    cuda) # the version whose figures tests/gpu/attention_resources.txt holds
        have_nvrtc && continue
        apt_need "${python_packages[@]}"
        venv build/nvrtc nvidia-cuda-nvrtc==13.0.88
        (cd build/nvrtc && ln -sfn lib/python3*/site-packages/nvidia/cu13/lib nvidia)
        ;;
    network) apt_need "${network_packages[@]}" ;;
    slurm) apt_need "${slurm_packages[@]}" ;;
    peers)
        apt_need "${python_packages[@]}" g++
        venv build/peers "${oracle_wheels[@]}" torch==2.15.0
        ;;
    *) echo "setup: unknown part: $what (build, oracle, cuda, network, slurm, peers)" >&2; exit 2 ;;
    esac
done
