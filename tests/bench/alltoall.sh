#!/usr/bin/env bash
# All-to-alls between hosts, measured and predicted: two to four hosts as namespaces of this machine,
# joined by links of 100 to 500 Mb/s, m6c's ranks on them over MPI. Prints markdown tables; --json
# FILE keeps the figures. See tests/bench/alltoall.md.
#   tests/bench/alltoall.sh [--clusters 2x2,4x2] [--rates 100,200,500] [--sizes 1024,65536] …
# Everything is made in namespaces of its own, which end with it. Where the system does not allow
# that, it says "skipped" and why, with exit status 0: a benchmark is no test.
set -euo pipefail
cd "$(dirname "$0")/../.."
tests/setup.sh build network
[ -x "${M6C:=build/m6c}" ] || { echo "there is no $M6C: build it first"; exit 1; }

skip() {
    echo "skipped: $*"
    exit 0
}

for tool in ip tc unshare nsenter mpirun cc; do
    command -v $tool >/dev/null || skip "there is no '$tool' here"
done
own=(unshare --net --mount --pid --fork --kill-child --mount-proc)
"${own[@]}" true 2>/dev/null || own+=(--user --map-root-user)
"${own[@]}" true 2>/dev/null || skip "no namespaces may be made here (root, or user namespaces)"
"${own[@]}" sh -c 'ip link add name one type veth peer name two && ip link add name bridge0 type bridge &&
    tc qdisc add dev one root tbf rate 1mbit burst 9000 limit 9000' 2>/dev/null ||
    skip "no shaped network can be made here (CAP_NET_ADMIN, veth, bridge, tbf)"

# What else runs here must not count: ranks go before it, where that is allowed.
first=()
chrt -r 1 true 2>/dev/null && first=(chrt -r 1)
exec "${first[@]}" "${own[@]}" python3 tests/bench/alltoall.py "$@"
