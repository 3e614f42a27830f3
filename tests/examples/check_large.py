#!/usr/bin/env python3
"""The large examples, planned for the clusters they are of: their sizes are M6's, what fits and what
does not is what arithmetic says, and all ranks' plans are simulated together. TIMEOUT: 600"""
import json, pathlib, resource, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/runtime"))
from system import check, m6c, workspace

CLUSTERS = ROOT / "examples/clusters"
WHALE, RDMA = CLUSTERS / "whale-64x8-v100.m6c-machine", CLUSTERS / "m6-1t-480x1-v100.m6c-machine"
V100, GIB, VOCAB, POSITIONS, PATCH = 32 * 10 ** 9, 2 ** 30, 21128, 128, 2048


def compile_on(cluster, model, folder, *args, status=0):
    return m6c("compile", ROOT / f"examples/{model}.m6", "-o", folder, "--plan-only", "--target", "sm_80",
               "--cluster", cluster, "--json", *args, status=status)


def planned(cluster, model, folder, *args):
    return json.loads(compile_on(cluster, model, folder, *args)[0])


def misfit(cluster, model, folder, *args):
    """GB of the device that the smallest plan takes, of a model that does not fit."""
    err = compile_on(cluster, model, folder, *args, status=1)[1]
    check("does not fit in 30517.58 MiB" in err, err)
    return float(err.split("the smallest plan found takes ")[1].split()[0]) * 2 ** 20 / 1e9


def experts(layers, hidden, ffn, experts):
    """Parameters of M6-T's models: in the formula that gives the published sizes, and with what it
    leaves out: the head, projections of patches, positions, norms."""
    known = layers * (2 * experts * hidden * ffn + 4 * hidden ** 2 + hidden * experts) + VOCAB * hidden
    rest = (VOCAB * hidden + VOCAB) + (PATCH * hidden + hidden) + POSITIONS * hidden + (2 * layers + 1) * 2 * hidden
    return known, known + rest


def check_size(o, shape, billions, off=0.005):
    known, all_ = experts(*shape)
    check(abs(known / 1e9 - billions) < off, f"{shape}: {known}, not {billions} billion")
    check(o["parameters"] == all_, f"{shape}: {o['parameters']} parameters, not {all_}")


def check_simulated(cluster, folder, ranks, stages, **busy):
    """All ranks are there, and what they take of time and links adds up."""
    o = json.loads(m6c("simulate", folder, "--cluster", cluster, "--json")[0])
    check(o["ranks"] == ranks and len(o["classes"]) == stages, o)
    check(sum(c["ranks"] for c in o["classes"]) == ranks, o)
    for c in o["classes"]:
        kernels = sum(s["busy_ms"] for s in c["streams"] if s["stream"] == "compute")
        host = o["host_alone_ms"] if stages == 1 else 0
        check(abs(kernels + host + c["exposed_ms"] + c["idle_ms"] - o["predicted_ms"]) < 1e-6 * o["predicted_ms"], c)
        check(0 < c["exposed_comm_ms"] <= min(c["exposed_ms"], c["comm_ms"]) * (1 + 1e-9), c)
    links = {link["link"]: link for link in o["links"]}
    for name, link in links.items():
        check(0 < link["busy_share"] <= 1 and link["bytes"] > 0 and link["messages"] > 0, link)
    check(set(links) == set(busy["links"]), links)
    return o


with workspace() as name:
    folder = pathlib.Path(name)

    # A trillion on 480 V100: with Adam 16 bytes a parameter do not fit, with Adafactor they do.
    o = planned(RDMA, "m6-t-1t", folder / "1t")
    check_size(o, (24, 1024, 21248, 960), 1002.752)
    check(2.2e9 < o["rank_parameters"] < 2.3e9 and o["device_bytes"] < V100 and not o["host_bytes"], o)
    check(misfit(RDMA, "m6-t-1t", folder / "adam", "--set", "adam=true") > 16 * 2.089, "Adam on 480 V100")
    check_simulated(RDMA, folder / "1t", 480, 1, links=["rdma"])

    # Ten trillion on 512: the weights alone do not fit the devices; with their hosts they do. With
    # one layer's parameters for all layers nothing leaves the devices.
    o = planned(WHALE, "m6-10t", folder / "10t")
    check_size(o, (48, 1024, 9984, 10240), 10050.95)
    check(o["device_bytes"] < V100 and o["host_bytes"] > 4 * 19.63e9 - V100, o)
    check(misfit(WHALE, "m6-10t", folder / "no", "--host-memory", "1MB") > 4 * 19.63, "10T without hosts")
    check_simulated(WHALE, folder / "10t", 512, 1, links=["nvlink", "ethernet"])
    o = planned(WHALE, "m6-10t", folder / "pseudo", "--set", "pseudo=true", "--host-memory", "1MB")
    check_size(o, (1, 1024, 9984, 10240), 209.4, 0.05)
    check(o["device_bytes"] < V100, o)

    # A hundred billion on 128: fits with Adam.
    o = planned(WHALE, "m6-100b", folder / "100b", "--set", "ranks=128", "--set", "batch=2048", "--memory", "32GB")
    check_size(o, (24, 1024, 4096, 512), 103.214)
    check(12.9e9 < o["device_bytes"] < V100 and not o["host_bytes"], o)
    check_simulated(WHALE, folder / "100b", 128, 1, links=["nvlink", "ethernet"])

    # Ten billion in a pipeline: 672 d^2 parameters in the layers, a plan for each stage.
    o = planned(WHALE, "m6-10b", folder / "10b", "--set", "micro_batches=4")
    check(abs(672 * 3840 ** 2 / 1e9 - 9.91) < 0.005 and 9.91e9 < o["parameters"] < 10.2e9, o)
    check(o["device_bytes"] < V100, o)
    check_simulated(WHALE, folder / "10b", 256, 8, links=["nvlink", "ethernet"])
    m6c("simulate", folder / "10b", "--cluster", WHALE, "--trace", folder / "trace.json")
    rows = {e["pid"] for e in json.loads((folder / "trace.json").read_text()) if e["ph"] == "X"}
    check(rows == set(range(8)), f"a process for each stage: {rows}")

    # A cluster with fewer devices is an error.
    err = m6c("simulate", folder / "10t", "--cluster", RDMA, status=1)[1]
    check("512 ranks need as many devices" in err, err)

check(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < GIB, "more than 1 GiB to compile")
print("large examples: ok")
