#!/usr/bin/env python3
"""What the commands print and write: --json, --log, --trace, --out, --grads, --save and --init,
--data from files and random numbers, inspect, forward plans, dumps that parse back, fmt, help and
unknown options, the progress bar of a terminal, and what a signal leaves."""
import json, os, pathlib, pty, re, signal, struct, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import HERE, M6C, check, compile_small, m6c, make_data, steps, workspace

FIELDS = ["step", "loss", "lr", "grad_norm", "seconds", "tokens"]
COMPILE_FIELDS = ["steps", "kernels", "parameters", "rank_parameters", "device_bytes", "host_bytes",
                  "disk_bytes", "predicted_ms", "bound_ms", "unconstrained_ms", "compile_seconds"]
PASSES = ["simplify", "raise", "precision", "differentiate", "optimize", "shares", "shard",
          "stages", "collectives", "lower", "epilogue", "fuse", "schedule", "memory", "allocate"]
EXAMPLES = HERE.parent.parent / "examples"
MODELS = [HERE / "small.m6", EXAMPLES / "m6-tiny.m6", EXAMPLES / "m6-100b.m6",
          *sorted((HERE.parent / "bench").glob("*.m6"))]


def tensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], raw[8 + n + b:8 + n + e])
            for k, v in header.items() for b, e in [v["data_offsets"]]}


def scalar(path, name):
    return struct.unpack("<f", tensors(path)[name][2])[0]


def losses(out):
    return [o["loss"] for _, o in sorted(steps(out).items())]


def reports(folder, plan, data):
    log, trace, n = folder / "log.jsonl", folder / "trace.json", 6
    run = ["run", plan, "--data", data, "--steps", n, "--json"]
    out, err = m6c(*run, "--log", log, "--trace", trace)
    check(log.read_text() == out, "the log has the lines of --json")
    for i, line in enumerate(out.splitlines(), 1):
        o = json.loads(line)
        check(list(o) == FIELDS and o["step"] == i, f"fields of a step: {list(o)}")
        check(o["seconds"] > 0 and o["tokens"] == 128 and o["lr"] > 0 and o["grad_norm"] > 0, line)
    plain = [l for l in err.splitlines() if l.startswith("step ")]
    check(len(plain) == n and "\r" not in err and "\x1b" not in err, f"plain lines:\n{err}")
    for part in ("loss", "lr", "norm", "tokens/s", "GFLOP/s", "% of peak", "left"):
        check(all(part in l for l in plain), f"'{part}' is in the lines: {plain[0]}")
    events = json.loads(trace.read_text())
    in_plan = json.loads(m6c("inspect", plan, "--json")[0])["steps"]
    check(len(events) == n * in_plan, f"{len(events)} events for {n} times {in_plan} steps")
    begins = [e["ts"] for e in events]
    check(begins == sorted(begins) and all(e["ph"] == "X" and e["dur"] >= 0 for e in events),
          "events are complete and in order")
    check(any("small.m6:" in e["args"]["source"] for e in events), "events name their lines")
    again, _ = m6c(*run, "--log", log)
    check(losses(again) == losses(out) and len(log.read_text().splitlines()) == 2 * n,
          "a second run has the same losses and is appended to the log")
    memory = re.search(r"arenas ([\d.]+) MiB \(as planned\), data ([\d.]+) MiB, code ([\d.]+) MiB, "
                       r"other ([\d.]+) MiB, peak resident ([\d.]+) MiB", err)
    check(memory, f"the memory is told:\n{err}")
    arena, held, code, other, peak = map(float, memory.groups())
    check(abs(arena + held + code + other - peak) < 0.3 and 0 <= other < 64, memory.group())


def in_and_out(folder, plan, data):
    at = lambda name: folder / f"{name}.safetensors"
    m6c("run", plan, "--data", "random:3", "--steps", 3, "--save", at("three"), "--out", at("out"),
        "--grads", at("grads"))
    out, _ = m6c("run", plan, "--data", "random:3", "--steps", 3, "--json")
    check(abs(scalar(at("out"), "loss") - losses(out)[-1]) < 1e-6, "--out has the last loss")
    params = json.loads(m6c("inspect", plan, "--json")[0])["params"]
    saved, grads = tensors(at("three")), tensors(at("grads"))
    check(sorted(saved) == sorted(p["name"] for p in params) == sorted(grads), sorted(grads))
    for p in params:
        for t in (saved, grads):
            check(t[p["name"]][:2] == (p["dtype"].upper(), p["shape"]), p["name"])
        check(any(grads[p["name"]][2]), f"the gradient of {p['name']} is not zero")
    # A step without update leaves what was read: --init and --save are inverse.
    m6c("compile", HERE / "small.m6", "-o", folder / "frozen", "--set", "batch=4", "--infer")
    m6c("run", folder / "frozen", "--data", "random:1", "--steps", 1, "--init", at("three"), "--save",
        at("same"))
    check(at("same").read_bytes() == at("three").read_bytes(), "what --init reads --save writes")
    # The next loss is a function of the parameters alone (no dropout in a forward plan).
    checkpoint = max((plan / "checkpoints").iterdir())
    for batch in ("random:8", data):
        a, _ = m6c("run", folder / "frozen", "--data", batch, "--steps", 2, "--init", at("three"),
                   "--json")
        b, _ = m6c("run", folder / "frozen", "--data", batch, "--steps", 2, "--init", checkpoint,
                   "--json")
        check(losses(a) == losses(b), "a checkpoint initialises as saved parameters do")
    check(losses(m6c("run", plan, "--data", "random:3", "--steps", 1, "--json")[0])
          != losses(m6c("run", plan, "--data", "random:4", "--steps", 1, "--json")[0]),
          "other seeds, other data")


def forward(folder, plan, data):
    fwd = compile_small(folder / "forward", "--infer")
    out, err = m6c("run", fwd, "--data", data, "--steps", 3, "--json", "--out",
                   folder / "f.safetensors")
    check("start values" in err, f"it is said that nothing was trained:\n{err}")
    check(len(set(losses(out))) == 3 and not (fwd / "checkpoints").exists(), "three batches")
    check(scalar(folder / "f.safetensors", "loss") == losses(out)[-1], "--out of a forward plan")
    many, _ = m6c("run", fwd, "--data", data, "--split", "valid", "--steps", 45, "--json")
    many = losses(many)  # 157 examples are 20 batches of 8
    check(many[20:40] == many[:20] and len(set(many)) == 20, "the data come round again, in order")
    m6c("run", plan, "--data", data, "--steps", 2)
    a, _ = m6c("run", plan, "--data", data, "--validate", "--json")
    b, _ = m6c("run", fwd, "--data", data, "--validate", "--json", "--init",
               max((plan / "checkpoints").iterdir()))
    check(a == b and list(json.loads(a)) == ["split", "loss", "perplexity", "targets", "examples"], a)


def inspect(plan):
    text, _ = m6c("inspect", plan)
    check("model small" in text and "input  text: i32[8,12]" in text and "output loss" in text, text)
    params, _ = m6c("inspect", plan, "--params")
    check(re.search(r"^head.weight +f32\[32,1400\] +44800 +normal\(0, 0.02\) +m6.m6:\d+:\d+$", params,
                    re.M), params)
    whole = json.loads(m6c("inspect", plan, "--json")[0])
    check(params.splitlines()[-1] == f"{whole['parameters']} parameters", "the sum")
    rows, _ = m6c("inspect", plan, "--steps")
    check(len(rows.splitlines()) == whole["steps"] + 1 and "gemm" in rows, "a row for each step")
    kernels, _ = m6c("inspect", plan, "--kernels")
    check(all(re.match(r"k_\w+ +\S+\.c +\d+ +[1-9]", r) for r in kernels.splitlines()[1:]), kernels)
    memory, _ = m6c("inspect", plan, "--memory")
    arena, bound = map(float, re.search(r"arena +([\d.]+) MiB.*bound ([\d.]+) MiB", memory).groups())
    check(bound <= arena <= 1.05 * bound + 0.01, memory)
    out, _ = m6c("compile", HERE / "small.m6", "-o", plan.parent / "json", "--json")
    o = json.loads(out)
    check(list(o) == COMPILE_FIELDS, f"fields of compile --json: {list(o)}")
    check(o["parameters"] == whole["parameters"] and o["device_bytes"] > 0, out)
    check(o["host_bytes"] == o["disk_bytes"] == 0, "without a budget all is on the device")
    check(o["predicted_ms"] == o["unconstrained_ms"] >= o["bound_ms"] > 0, out)


def texts(folder):
    for model in MODELS:
        stages = folder / "stages" / model.stem
        m6c("dump", model, "--all", stages)
        files = sorted(stages.iterdir())
        names = [re.fullmatch(r"(\d\d)-(\w+)\.ir", f.name) for f in files]
        check(all(names) and [int(n[1]) for n in names] == list(range(len(files))), files)
        check({n[2] for n in names} == {"elaborate", *PASSES}, "every pass has its file")
        for f in files:
            check(m6c("opt", f, "--passes=")[0] == f.read_text(), f"{f} parses back")
        check(m6c("dump", model, "--after", "allocate")[0] == files[-1].read_text(), "--after")
        pretty, _ = m6c("fmt", model)
        copy = folder / model.name
        copy.write_text(pretty)
        check(m6c("fmt", copy)[0] == pretty, f"fmt of {model.name} changes nothing twice")
        m6c("fmt", "-i", copy)
        check(copy.read_text() == pretty, "fmt -i")


def usage():
    top, _ = m6c("--help")
    for command in ("compile", "run", "inspect", "dump", "opt", "fmt"):
        check(re.search(rf"^  {command} ", top, re.M), f"--help names {command}")
        text, _ = m6c(command, "--help")
        options = re.findall(r"^  (--?[\w-]+)", text, re.M)
        check(text.startswith(f"usage: m6c {command}") and options, text)
        _, err = m6c(command, "--no-such-option-at-all", status=2)
        check("unknown option" in err and "--help" in err, err)
        for option in options:
            if len(option) > 6:
                _, err = m6c(command, option[:4] + "x" + option[4:], status=2)
                check(f"did you mean '{option}'" in err, f"{command} {option}: {err}")
    check(m6c("--version")[0].startswith("m6c "), "--version")
    for wrong in ([], ["compil", "x.m6"], ["compile"], ["compile", "a.m6", "b.m6"], ["run"],
                  ["run", "p", "--steps"], ["run", "p", "--steps", "many"], ["run", "p"],
                  ["run", "p", "--steps", "-3"], ["inspect"], ["run", "p", "--steps", "1", "--keep", "0"],
                  ["run", "p", "--validate", "--out", "x"],
                  ["run", "p", "--steps", "1", "--resume", "--init", "x"],
                  ["compile", "x.m6", "--target", "none"]):
        _, err = m6c(*wrong, status=2)
        check(err and len(err.splitlines()) < 20, f"{wrong}: {err}")


def on_terminal(command, sig=None, after=0.0):
    """The command with a terminal as stderr: its exit status and what it drew."""
    ours, theirs = pty.openpty()
    p = subprocess.Popen([M6C, *map(str, command)], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    drawn, sent, begin = b"", False, time.monotonic()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        drawn += part
        if sig and not sent and b"step 3/" in drawn and time.monotonic() - begin > after:
            p.send_signal(sig)
            sent = True
        if not part:
            break
    os.close(ours)
    return p.wait(timeout=60), drawn.decode()


def terminal(plan, data):
    status, drawn = on_terminal(["run", plan, "--data", data, "--steps", 20])
    check(status == 0 and drawn.count("\r\x1b[K[") == 20, f"a bar for each step: {drawn!r}")
    check("[####################] step 20/20" in drawn and "[##########..........]" in drawn, drawn)
    check(re.search(r"left \d+m\d\ds", drawn), "the time left")
    check("\r\x1b[Kmemory: " in drawn, "the bar is cleared before other text")
    for sig in (signal.SIGTERM, signal.SIGINT):
        status, drawn = on_terminal(["run", plan, "--data", data, "--steps", 100000], sig)
        done = int(re.search(r"stopped after step (\d+)", drawn)[1])
        check(status == 0 and done >= 3, f"{sig}: exit status {status}, step {done}")
        check((plan / f"checkpoints/step-{done:08}.safetensors").exists(), f"{sig} saves")


with workspace() as folder:
    folder = pathlib.Path(folder)
    data = make_data(folder / "data")
    plan = compile_small(folder / "plan", "--grads")
    reports(folder, plan, data)
    in_and_out(folder, plan, data)
    forward(folder, plan, data)
    inspect(plan)
    texts(folder)
    usage()
    terminal(plan, data)
