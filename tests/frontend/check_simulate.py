#!/usr/bin/env python3
"""m6c simulate and m6c compare: figures that agree with each other and with sums by hand, JSON,
traces, the drawing, and what they say of wrong input."""
import json, os, pathlib, re, statistics, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
from system import check, compile_small, m6c, workspace

MACHINE = """m6c-machine 1
name "by hand"
target cpu
launch 1us
vector 1GOPS
bandwidth 1GB/s
peak f32 10GFLOPS efficiency 1
product f32 nn 1x1x1 1GFLOPS
copy in 2GB/s latency 1us
copy out 1GB/s latency 5us
copy read 1GB/s latency 1us
copy write 1GB/s latency 1us
"""
# Kernels of 10, 20 and 40 us; a fetch of 15 us before the second, a copy out of 25 us behind it.
PLAN = """m6c-plan 1
model hand
target cpu
command "m6c compile hand.m6"
train yes
hashes model=0123456789abcdef compiler=00000000deadbeef
arena device=262144 host=65536 disk=0
lower-bound device=262144 host=65536 disk=0
work tokens=100 flops=0
buffer 0 param "w" f32[7000] host+0 hand.m6:1:1
buffer 1 temp "%1" f32[7000] device+0 -
buffer 2 temp "%2" f32[5000] device+32768 -
buffer 3 temp "%3" f32[5000] host+32768 -
buffer 4 output "loss" f32[] device+65536 -
tensor b0 normal 0 0.02 1111111111111111
output b4
kernel 0 k_a k.c nargs=1 hash=00000000000000ff
kernel 1 k_b k.c nargs=2 hash=0000000000000100
step 0 kernel k0 items=1 grain=1 flops=9000 args=b4 writes=1 ; "add" a hand.m6:2:1
step 1 copy bytes=28000 stream=1 args=b1,b0 ; "copy_start" b hand.m6:3:1
step 2 kernel k1 items=1 grain=1 flops=19000 args=b1,b2 writes=2 wait=1 ; "mul" b.c hand.m6:4:1
step 3 copy bytes=20000 stream=2 args=b3,b2 wait=2 ; "copy_start" b.c hand.m6:5:1
step 4 kernel k0 items=1 grain=1 flops=39000 args=b4 writes=1 phase=backward ; "add" a hand.m6:6:1
end
"""
SIMULATE = ["model", "machine", "train", "predicted_ms", "tokens_per_second", "tokens", "flops",
            "copies_ms", "exposed_ms", "host_alone_ms", "mfu", "streams"]
COMPARE = ["model", "target", "machine", "train", "measured_steps", "step", "fastest_ms", "parts",
           "absolute_error_percent", "kinds", "steps"]


def near(x, y, share=1e-9):
    return abs(x - y) <= share * max(abs(x), abs(y)) + 1e-12


def simulated(*args):
    return json.loads(m6c("simulate", *args, "--json", "--steps")[0])


def by_hand(folder):
    plan, machine = folder / "hand.txt", folder / "machine.txt"
    plan.write_text(PLAN)
    machine.write_text(MACHINE)
    o = simulated(plan, "--cluster", machine)
    check(list(o) == SIMULATE + ["steps"], f"keys: {list(o)}")
    times = [(s["begin_us"], s["end_us"]) for s in o["steps"]]
    expected = [(0, 10), (0, 15), (15, 35), (35, 60), (35, 75)]
    check(all(near(a, b) for t, e in zip(times, expected) for a, b in zip(t, e)), f"{times}")
    check(near(o["predicted_ms"], 0.075) and near(o["tokens_per_second"], 100 / 75e-6), f"{o}")
    check(near(o["copies_ms"], 0.040) and near(o["exposed_ms"], 0.005), f"{o}")
    check(o["machine"] == "by hand" and o["mfu"] is None, f"{o}")
    streams = {s["stream"]: s for s in o["streams"]}
    check(list(streams) == ["compute", "in", "out"], f"{streams}")
    check(near(streams["compute"]["busy_share"], 70 / 75), f"{streams}")
    check(streams["in"]["bytes"] == 28000
          and near(streams["in"]["bytes_per_second"], 28000 / 15e-6)
          and near(streams["out"]["bytes_per_second"], 8e8), f"{streams}")
    text, _ = m6c("simulate", plan, "--cluster", machine)
    for part in ("0.075 ms a step, 1333333 tokens/s", "copies 0.040 ms, 0.005 ms of the step",
                 "0.005 ms  step 1 in: copy_start b (0.03 MB), before step 2 mul b.c"):
        check(part in text, f"'{part}' in\n{text}")
    return plan, machine


def drawing(plan, machine):
    for wide in (60, 100, 173):
        text, _ = m6c("simulate", plan, "--cluster", machine, "--timeline",
                      env=dict(os.environ, COLUMNS=str(wide)))
        rows = [l for l in text.splitlines() if "│" in l]
        check([r.split("│")[0].strip() for r in rows] == ["compute", "in", "out"], text)
        check(all(len(r) == wide for r in rows), f"{wide} wide:\n{text}")
        cells = {r.split("│")[0].strip(): r.split("│")[1] for r in rows}
        check(abs(cells["in"].count("█") - len(cells["in"]) / 5) < 2, f"15 of 75 us:\n{text}")
        check(cells["in"].startswith("█") and cells["compute"].endswith("█"), text)
        check("'forward" in text and "'backward" in text and "'b" in text, text)


def traces(folder, plan, machine):
    trace = folder / "simulated.json"
    m6c("simulate", plan, "--cluster", machine, "--trace", trace)
    events = json.loads(trace.read_text())
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    check(tracks == {0: "compute", 1: "in", 2: "out"}, f"tracks: {tracks}")
    steps = [e for e in events if e["ph"] == "X"]
    check([e["args"]["step"] for e in steps] == list(range(5)), "an event a step")
    check(near(steps[2]["ts"], 15) and near(steps[2]["dur"], 20) and steps[1]["tid"] == 1,
          f"{steps}")


def on_this_machine(plan):
    o = simulated(plan)
    check(near(sum(s["alone_us"] for s in o["steps"]), o["predicted_ms"] * 1e3), "one stream")
    check(len(o["streams"]) == 1 and near(o["streams"][0]["busy_share"], 1), f"{o['streams']}")
    check(o["exposed_ms"] == 0 and o["mfu"] > 0, "no copies")
    forward = simulated(plan, "--forward")
    check(forward["predicted_ms"] < o["predicted_ms"] and not forward["train"], "a forward plan")
    rows = m6c("simulate", plan, "--steps")[0].splitlines()
    check(len([l for l in rows if re.match(r" *\d+ compute ", l)]) == len(o["steps"]), "rows")


def check_sums(o, steps):
    check(list(o) == COMPARE, f"keys: {list(o)}")
    check(len(o["steps"]) == steps == sum(k["steps"] for k in o["kinds"].values()), "all steps")
    for key, unit in (("predicted_ms", "predicted_us"), ("measured_ms", "measured_us")):
        parts = sum(s[unit] for s in o["steps"]) * 1e-3
        kinds = sum(k[key] for k in o["kinds"].values())
        check(near(o["parts"][key], parts, 1e-6) and near(kinds, parts, 1e-6), f"sums of {key}")
    off = [abs(s["predicted_us"] - s["measured_us"]) for s in o["steps"]]
    check(off == sorted(off, reverse=True), "worst errors first")
    check(near(o["absolute_error_percent"], sum(off) / o["parts"]["measured_ms"] / 10, 1e-6),
          "absolute errors")


def comparison(folder, plan):
    n = len(simulated(plan)["steps"])
    o = json.loads(m6c("compare", plan, "--steps", 3, "--json")[0])
    check_sums(o, n)
    check(o["measured_steps"] == 3, f"{o['measured_steps']} steps")
    check(0 < o["fastest_ms"] <= o["step"]["measured_ms"], f"{o['fastest_ms']}, {o['step']}")
    error = 100 * (o["step"]["predicted_ms"] / o["step"]["measured_ms"] - 1)
    check(near(o["step"]["error_percent"], error, 1e-6), "the step's error")
    text, _ = m6c("compare", plan, "--steps", 1, "--top", 4, "--threads", 1)
    check("whole step" in text and "products" in text and "fused kernels" in text, text)
    check(len(re.findall(r"^ *\d+ compute ", text, re.M)) == 4, f"four steps:\n{text}")
    forward = json.loads(m6c("compare", plan, "--forward", "--steps", 2, "--fastest", "--json")[0])
    check(forward["fastest_ms"] == forward["step"]["measured_ms"], "the fastest is asked for")
    check(not forward["train"] and len(forward["steps"]) < n, "a forward plan")


def from_trace(folder, plan):
    trace, n = folder / "run.json", len(simulated(plan)["steps"])
    m6c("run", plan, "--data", "random:1", "--steps", 5, "--trace", trace)
    o = json.loads(m6c("compare", plan, "--trace", trace, "--json")[0])
    check_sums(o, n)
    check(o["measured_steps"] == 5 and o["step"] is None and o["fastest_ms"] is None, f"{o}")
    times = {}
    for e in json.loads(trace.read_text()):
        times.setdefault(e["args"]["step"], []).append(e["dur"])
    check(all(near(s["measured_us"], statistics.median(times[s["step"]]), 1e-6)
              for s in o["steps"]), "medians of the trace")
    o = json.loads(m6c("compare", plan, "--trace", trace, "--json", "--fastest")[0])
    check(all(near(s["measured_us"], min(times[s["step"]]), 1e-6) for s in o["steps"]),
          "the fastest of the trace")
    return trace


SIZES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8, "i32": 4, "i64": 8, "bool": 1}


def read_plan(text):
    """Of each step: its stream, what it waits for, and the bytes it touches as (memory, first,
    end, written)."""
    place, steps = {}, []
    form = r'^buffer (\d+) \S+ "(?:[^"\\]|\\.)*" (\w+)\[([\d,]*)\] (\w+)\+(\d+)'
    for b, dtype, dims, mem, at in re.findall(form, text, re.M):
        size = SIZES[dtype]
        for d in filter(None, dims.split(",")):
            size *= int(d)
        place[int(b)] = (mem, int(at), int(at) + size)
    for line in re.findall(r"^step \d+ .*", text, re.M):
        words = line.split(" ; ")[0].split()
        key = dict(w.split("=", 1) for w in words if "=" in w)
        gemm, kernel = words[2] == "gemm", words[2] == "kernel"
        epilogue = key.get("epilogue", "").split(":")[0]
        extra = {"gelu": 3, "bias_gelu": 3, "gelu_grad_sum": 4}.get(epilogue, 2)
        written = {2, extra} if gemm else {0}
        if kernel:
            written = {i for i in range(64) if int(key["writes"], 16) >> i & 1}
        touched = []
        for i, arg in enumerate(key["args"].split(",")):
            b, _, offset = arg[1:].partition("+")
            mem, first, end = place[int(b)]
            if words[2] in ("copy", "fill"):
                first += int(offset or 0)
                end = first + int(key["bytes"])
            touched.append((mem, first, end, i in written or (kernel and i >= 64)))
        waits = [int(w) for w in key["wait"].split(",")] if "wait" in key else []
        steps.append((int(key.get("stream", 0)), waits, touched))
    return steps


def conflict(a, b):
    return any(m == n and (w or v) and max(f, g) < min(e, h)
               for m, f, e, w in a for n, g, h, v in b)


def ordered(plan):
    """Any two steps of different streams that touch the same bytes are in order: by the waits."""
    steps = read_plan((plan / "plan.txt").read_text())
    before, last, pairs = [], {}, 0  # before[i]: bit j: step j has ended when step i begins
    for i, (stream, waits, touched) in enumerate(steps):
        seen = 0
        for w in waits + ([last[stream]] if stream in last else []):
            check(w < i, f"step {i} waits for {w}")
            seen |= before[w] | 1 << w
        before.append(seen)
        last[stream] = i
        for j in range(i):
            if conflict(touched, steps[j][2]):
                pairs += steps[j][0] != stream
                check(seen >> j & 1, f"steps {j} and {i} are ordered")
    check(pairs > 0, "streams share bytes")


def offloaded(folder):
    """A plan with copies takes hardly more than it was promised to, and not much less."""
    plan = compile_small(folder / "offloaded", "--memory", "1MB", "--host-memory", "1GB")
    promised = float(re.search(r"^predicted us=(\S+)", (plan / "plan.txt").read_text(), re.M)[1])
    ordered(plan)
    o = simulated(plan)
    ratio = o["predicted_ms"] * 1e3 / promised  # a plan waits for fewer bytes than it was promised with
    check(0.9 < ratio < 1.002, f"{o['predicted_ms']} ms, promised were {promised} us")
    streams = {s["stream"] for s in o["streams"]}
    check({"in", "out"} <= streams, f"copies: {streams}")
    longest = max(s["busy_ms"] for s in o["streams"])
    check(longest <= o["predicted_ms"] * (1 + 1e-9), "no stream works longer than the step")
    compute = next(s["busy_ms"] for s in o["streams"] if s["stream"] == "compute")
    check(near(compute + o["exposed_ms"] + o["host_alone_ms"], o["predicted_ms"], 1e-6), "parts")
    c = json.loads(m6c("compare", plan, "--steps", 2, "--json", "--link", "2GB/s")[0])
    check_sums(c, len(o["steps"]))
    check(c["kinds"]["copy"]["steps"] == sum(s["kind"] == "copy" for s in c["steps"]), "copies")


def mistakes(folder, plan, machine, trace):
    def fails(status, part, *args):
        _, err = m6c(*args, status=status)
        check(part in err, f"'{part}' in\n{err}")

    for command in ("simulate", "compare"):
        fails(1, "nowhere", command, folder / "nowhere")
        fails(2, "too few arguments", command)
        fails(2, "did you mean '--cluster'", command, plan, "--clutser", machine)
        fails(1, "nothing.txt", command, plan, "--cluster", folder / "nothing.txt")
        bad = folder / "bad.txt"
        bad.write_text(MACHINE.replace("launch 1us", "launch 5furlongs"))
        fails(1, "bad.txt:4:", command, plan, "--cluster", bad)
        fails(1, "", command, machine)
    fails(2, "choose one", "simulate", plan, "--json", "--timeline")
    fails(3, "cannot write", "simulate", plan, "--trace", folder / "no" / "trace.json")
    fails(2, "--steps must be", "compare", plan, "--steps", 0)
    fails(2, "--link takes a rate", "compare", plan, "--link", "fast")
    fails(2, "--threads must be", "compare", plan, "--threads", -1)
    fails(2, "choose", "compare", plan, "--trace", trace, "--threads", 2)
    other = compile_small(folder / "other", "--infer")
    fails(1, "not a trace of this plan", "compare", other, "--trace", trace)
    for wait in ("wait=4", "wait=1", "wait=9"):  # of a later step, of itself, of none
        hand = folder / "waits.txt"
        hand.write_text(PLAN.replace("args=b1,b0", f"args=b1,b0 {wait}"))
        fails(1, "waits.txt", "simulate", hand)
    for text in ("", "{}", "[1]", '[{"ph": "X", "name": "add"}]', "[]", "[{]"):
        broken = folder / "broken.json"
        broken.write_text(text)
        fails(1, "broken.json", "compare", plan, "--trace", broken)
    cut = folder / "cut.json"
    cut.write_text(json.dumps(json.loads(trace.read_text())[:-3]))
    check(json.loads(m6c("compare", plan, "--trace", cut, "--json")[0])["measured_steps"] == 4,
          "a step that was cut off does not count")
    null = compile_small(folder / "null", "--target", "null")
    fails(1, "null device takes no time", "compare", null)


def main():
    with workspace() as folder:
        folder = pathlib.Path(folder)
        hand, machine = by_hand(folder)
        drawing(hand, machine)
        traces(folder, hand, machine)
        plan = compile_small(folder / "plan")
        on_this_machine(plan)
        comparison(folder, plan)
        trace = from_trace(folder, plan)
        offloaded(folder)
        mistakes(folder, plan, machine, trace)
    print("simulated and measured steps: ok")


if __name__ == "__main__":
    main()
