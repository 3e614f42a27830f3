#!/usr/bin/env python3
"""What the commands say of memory: inspect --memory adds up, the error about a model that does not
fit holds the same table and edits that do what they say, fit finds the largest value. TIMEOUT: 600"""
import json, os, pathlib, re, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/runtime"))
from system import HERE, M6C, check, m6c, workspace

TINY = ROOT / "examples/m6-tiny.m6"
SMALL = HERE / "small.m6"
MIB = 1 << 20

# One of each: a parameter in host memory that is fetched and cast, an activation that goes to the
# host and comes back, one that stays, a gradient that goes to the host, where the update is done.
PLAN = """m6c-plan 1
model moves
target cpu
command ""
train yes
hashes model=0000000000000000 compiler=0000000000000000
arena device=4096 host=4096 disk=0
lower-bound device=0 host=0 disk=0
work tokens=8 flops=1
machine "a test"
budget device=4096 host=8192 disk=0
predicted us=110 bound=100 unconstrained=88 bytes=8192
decision block[0].a recompute bytes=64 us=1 m.m6:1:1
decision block[1].a recompute bytes=64 us=2 m.m6:1:1
decision block[2].b host bytes=256 us=8 hinted m.m6:2:1
buffer 0 param "block[0].w" f32[16] host+0 m.m6:3:1
buffer 1 state "block[0].w/m" f32[16] host+64 m.m6:4:1
buffer 2 input "x" f32[16] device+0 -
buffer 3 output "loss" f32[] device+64 -
buffer 4 temp "%fetched" f32[16] device+128 -
buffer 5 temp "%cast" bf16[16] device+192 -
buffer 6 temp "%out" f32[16] device+256 -
buffer 7 temp "%away" f32[16] host+128 -
buffer 8 temp "%back" f32[16] device+320 -
buffer 9 temp "%kept" f32[16] device+384 -
buffer 10 temp "%grad" f32[32] device+448 -
buffer 11 temp "%moved" f32[16] host+192 -
buffer 12 temp "%scratch" f32[16] device+576 -
tensor b0 zeros 0 0 0000000000000000
tensor b1 zeros 0 0 0000000000000000
input b2
output b3
kernel 0 k2 k.c nargs=2 hash=0000000000000000
kernel 1 k3 k.c nargs=3 hash=0000000000000001
step 0 copy bytes=64 stream=1 args=b4,b0 ; "copy_start" block[0] m.m6:3:1
step 1 kernel k0 items=1 grain=1 args=b4,b5 writes=2 wait=0 ; "cast" block[0] m.m6:3:2
step 2 kernel k1 items=1 grain=1 args=b2,b5,b6 writes=4 ; "mul" block[0] m.m6:5:1
step 3 kernel k0 items=1 grain=1 args=b6,b9 writes=2 ; "exp" block[0] m.m6:6:1
step 4 copy bytes=64 stream=2 args=b7,b6 wait=2 ; "copy_start" block[0] m.m6:5:1
step 5 kernel k0 items=1 grain=1 args=b9,b3 writes=2 ; "sum" - m.m6:7:1
step 6 copy bytes=64 stream=1 phase=backward args=b8,b7 wait=4 ; "copy_start" block[0] m.m6:5:1
step 7 kernel k0 items=1 grain=1 phase=backward args=b9,b12 writes=2 ; "neg" block[0] m.m6:6:1
step 8 kernel k1 items=1 grain=1 phase=backward args=b8,b12,b10 writes=4 wait=6 ; "mul" block[0] m.m6:5:1
step 9 copy bytes=64 stream=2 phase=apply args=b11,b10 wait=8 ; "copy_start" block[0] m.m6:3:1
step 10 kernel k1 stream=3 items=1 grain=1 phase=apply args=b11,b1,b0 writes=6 wait=9 ; "sub" block[0] m.m6:4:1
end
"""


def classes(folder):
    (folder / "moves.txt").write_text(PLAN)
    out = json.loads(m6c("inspect", folder / "moves.txt", "--memory", "--json")[0])["memory"]
    kinds = {t["source"]: t["kind"] for t in out["host"]["tensors"]}
    check(kinds["m.m6:3:1"] in ("parameters", "gradients"), kinds)
    host = out["host"]["kinds"]
    check(host["parameters"] == host["optimizer state"] == 64, host)
    check(host["activations"] + host["gradients"] == 64, f"one of both is alive: {host}")
    device = out["device"]
    check(device["peak_step"] == 8 and device["peak_phase"] == "backward", device)
    check(device["kinds"] == {"parameters": 0, "compute copies": 0, "gradients": 128,
                              "optimizer state": 0, "activations": 64, "temporaries": 64,
                              "inputs, outputs": 128}, device["kinds"])
    check(device["live_bytes"][1] == 64 * 3, "x, what is fetched, its cast")
    text = m6c("inspect", folder / "moves.txt", "--memory")[0]
    check(re.search(r"0\.003 ms +2x recompute +block\[0\.\.1\]\.a +m\.m6:1:1\n", text), text)
    check("block[2].b" in text and text.count("(asked for)") == 1, text)
    check("predicted 0.110 ms a step on a test, 72727 tokens/s" in text, text)
    check("within 10.0 % of the best possible" in text and "+25.0 % time" in text, text)
    wide = PLAN
    for old, new in (("f32[16] host+0", "f32[256] host+1024"),
                     ("f32[16] device+128", "f32[256] device+1024"),
                     ("bf16[16] device+192", "bf16[256] device+2048")):
        wide = wide.replace(old, new)
    (folder / "wide.txt").write_text(wide)
    device = json.loads(m6c("inspect", folder / "wide.txt", "--memory", "--json")[0])["memory"]["device"]
    check(device["peak_step"] == 1 and device["kinds"]["compute copies"] == 1024 + 512, device)


def adds_up(folder):
    """Kinds, layers and tensors sum to the peak, in every memory of every plan."""
    for model, more in ((SMALL, ()), (TINY, ()), (TINY, ("--precision", "bf16")),
                        (TINY, ("--memory", "110MiB")), (TINY, ("--infer",)),
                        (TINY, ("--memory", "90MiB", "--host-memory", "1GiB"))):
        plan = folder / "plan"
        m6c("compile", model, "-o", plan, "--plan-only", *more)
        whole = json.loads(m6c("inspect", plan, "--memory", "--json")[0])["memory"]
        for name in ("device", "host", "disk"):
            mem = whole.get(name)
            if not mem:
                continue
            peak = mem["peak_bytes"]
            for parts in (mem["kinds"].values(), [t["bytes"] for t in mem["tensors"]],
                          [l["bytes"] for l in mem["layers"]]):
                check(sum(parts) == peak, f"{model} {more} {name}: {sum(parts)} of {peak}")
            for l in mem["layers"]:
                check(sum(l["kinds"].values()) == l["bytes"], l)
            check(max(mem["live_bytes"]) == peak == mem["lower_bound_bytes"], "the profile")
            check(mem["live_bytes"][mem["peak_step"]] == peak <= mem["arena_bytes"], "when")
            check(not mem["budget_bytes"] or mem["arena_bytes"] <= mem["budget_bytes"], "budget")
            check(all(t["source"] or t["kind"] == "inputs, outputs" for t in mem["tensors"]
                      if t["bytes"] >= 4096), "tensors have places in the source")
        kinds = whole["device"]["kinds"]
        check(kinds["parameters"] > 0, kinds)
        if "--infer" not in more and not more:
            check(kinds["optimizer state"] == 2 * kinds["parameters"], kinds)
            check(kinds["activations"] > 0 and kinds["gradients"] > 0, kinds)
        if "bf16" in more:
            check(kinds["compute copies"] > 0, kinds)
        decided = whole["decisions"]
        check(bool(decided) == ("--memory" in more), f"{more}: {len(decided)} decisions")
        if decided:
            check(whole["predicted_ms"] >= whole["bound_ms"] > 0, "the bound")
            check(all(d["bytes"] > 0 and d["ms"] >= 0 and d["how"] for d in decided), decided)


def readable(folder):
    """Forty-eight layers are as few lines as two, and no line is lost with --all."""
    lines = []
    for layers in (2, 48):
        m6c("compile", TINY, "-o", folder / "p", "--plan-only", "--set", f"layers={layers}")
        text = m6c("inspect", folder / "p", "--memory")[0]
        lines.append(len(text.splitlines()))
        check(f"block[0..{layers - 1}]" in text and f" {layers}x " in text, text)
        check(re.search(r"^peak of live bytes [\d.]+ MiB at step \d+ of \d+ \(\w+\): ", text, re.M), text)
        check("▲" in text and "█" in text and "library workspace" in text, text)
    check(lines[0] == lines[1] < 60, f"{lines} lines")
    every = m6c("inspect", folder / "p", "--memory", "--all")[0]
    check(len(every.splitlines()) > lines[1], "--all shows more")


def size(text):
    number, unit = re.fullmatch(r"(\d+)(KiB|MiB)", text).groups()
    return int(number) * {"KiB": 1 << 10, "MiB": 1 << 20}[unit]


def misfit(folder):
    said = m6c("compile", TINY, "-o", folder / "no", "--plan-only", "--memory", "60MiB", status=1)[1]
    check(not (folder / "no").exists(), "nothing is written")
    check(re.match(r"error: the model does not fit in 60\.00 MiB of device memory: the smallest "
                   r"plan found takes [\d.]+ MiB\n", said), said)
    for part in ("the smallest plan found:", "peak of live bytes", "optimizer state", "by layer",
                 "tensors alive then", "live bytes over the", "decisions: ", "recompute"):
        check(part in said, f"{part}:\n{said}")
    edits = re.findall(r"^  (--.*?) {2,}device ([\d.]+) MiB.*?, ([\d.]+) ms a step(?: \(([\d.]+))?",
                       said, re.M)
    check(edits and re.search(r"^\d+ of \d+ edits could be tried in 2 s;", said, re.M), said)
    times = [float(e[3] or e[2]) for e in edits]
    check(times == sorted(times), "the fastest first")
    for edit, device, ms, _ in edits:
        words = edit.replace("DIR:", f"{folder}/d:").split()
        more = [] if "--memory" in words else ["--memory", "60MiB"]
        out = m6c("compile", TINY, "-o", folder / "yes", "--plan-only", "--json", *more, *words)[0]
        made = json.loads(out)
        check(made["device_bytes"] <= size(words[1] if "--memory" in words else "60MiB"), out)
        check(made["predicted_ms"] <= 1.001 * float(ms) + 0.001, f"{edit}: {ms} ms, then {out}")


def fits(folder):
    def try_batch(batch):
        p = subprocess.run([M6C, "compile", TINY, "-o", folder / "f", "--plan-only", "--memory",
                            "100MiB", "--set", f"batch={batch}"], capture_output=True)
        return p.returncode == 0

    out = json.loads(m6c("fit", TINY, "--vary", "batch", "--memory", "100MiB", "--json")[0])
    fit = out["fit"][0]
    check(fit["config"] == "batch" and try_batch(fit["largest"]), fit)
    check(not try_batch(fit["largest"] + 1), "the next larger one does not fit")
    rows = {t["value"]: t for t in fit["tries"]}
    check(rows[fit["largest"]]["fits"] and not rows[fit["largest"] + 1]["fits"], rows)
    check(rows[32]["tokens"] == 32 * 40, rows[32])
    speed = {v: t["predicted_ms"] / t["tokens"] for v, t in rows.items() if t["fits"]}
    check(min(speed, key=speed.get) == fit["fastest"], speed)

    text = m6c("fit", TINY, "--vary", "hidden", "--memory", "100MiB")[0]
    check("values do not compile, such as" in text and ", the largest" in text, text)
    largest = int(re.search(r"^(\d+) .*fits, the largest", text, re.M).group(1))
    check(largest % 4 == 0 and largest >= 96, "four heads divide it")
    text = m6c("fit", TINY, "--vary", "batch", "--memory", "100MiB", "--to", "16")[0]
    check(re.search(r"^16 .*fits, the largest", text, re.M), text)
    text = m6c("fit", TINY, "--vary", "batch", "--memory", "1MiB")[0]
    check("no value of batch fits" in text and "MiB too much" in text, text)

    text = m6c("fit", TINY, "--memory", "110MiB")[0]
    for row in ("as it is", "(half)", "--checkpoint all", "--offload optimizer", "--host-memory",
                "--precision bf16", "--set batch=64", "--set batch=16"):
        check(row in text, f"{row}:\n{text}")
    whole = json.loads(m6c("fit", TINY, "--memory", "110MiB", "--json")[0])
    base = whole["what_if"][0]
    check(base["settings"] == "as it is" and base["fits"], base)
    check(base["device_bytes"] <= 110 * MIB == whole["budget_bytes"], base)

    for args, status, say in ((("--vary", "nothing"), 1, "is no config that is a whole number"),
                              (("--vary", "batch", "--memory", "100"), 1, "with its unit"),
                              (("--from", "x"), 2, "wants a whole number")):
        check(say in m6c("fit", TINY, *args, status=status)[1], args)


def main():
    with workspace() as name:
        folder = pathlib.Path(name)
        os.environ["M6C_CACHE"] = str(folder / "cache")  # no profile of this machine
        for test in (classes, adds_up, readable, misfit, fits):
            test(folder)


if __name__ == "__main__":
    main()
