#!/usr/bin/env bash
# One training step in m6c, JAX and PyTorch (eager, compiled): the same mathematics, parameters and
# batch, in turns on the same cores. Prints a markdown table; --json FILE keeps the figures.
#   tests/bench/step.sh [--models tiny,dense,moe] [--peers m6c,jax,torch,torch-compile]
#                       [--rounds 5] [--steps 4] [--threads 2] [--json FILE]
set -euo pipefail
cd "$(dirname "$0")/../.."
tests/setup.sh peers
exec build/peers/bin/python tests/bench/step.py "$@"
