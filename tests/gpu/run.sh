#!/usr/bin/env bash
# Everything that needs a GPU, in one command: numeric tests, compute-sanitizer, training against the
# CPU's losses, resuming, measurements. Writes tests/gpu/report-DEVICE.json and .md. Without a driver
# or a device it says so and exits with 77. Options: tests/gpu/run.sh --help.
exec python3 "$(dirname "$0")/run.py" "$@"
