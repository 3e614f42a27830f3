"""What the two peers share: a child process that trains on command.

python peer_X.py SPEC.json PARAMS BATCH. Each line on stdin is a number of steps to take; each line
on stdout a JSON object: first {"ready", "compile", "losses", "imports", "whole"} after two
steps (imports: bytes held before anything was loaded, whole: the peak so far), then for each
command {"seconds", "losses", "rss"}: seconds and loss of each step, peak bytes while stepping.
"""
import json
import math
import sys
import time


def learning_rate(train, step):
    done = min(max((step - train["warmup"]) / max(train["steps"] - train["warmup"], 1), 0), 1)
    warm = min(step / max(train["warmup"], 1), 1)
    return warm * train["peak"] / 2 * (1 + math.cos(math.pi * done))


def blocks(config):
    """[(kind, scope, scope of the norm before it)]: the logical names of m6c."""
    for i in range(config["layers"]):
        seen = {}
        for kind in config["block"]:
            names = []
            for name in (kind, "norm"):
                n = seen[name] = seen.get(name, -1) + 1
                names.append(f"block[{i}].{name}" + (f"_{n}" if n else ""))
            yield kind, *names


def reset_peak():
    """Forgets the peak so far (what compiling and loading took), where Linux allows."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def memory(row):
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(row))


def one_by_one(step, numbers):
    """Seconds and loss of each step."""
    seconds, losses = [], []
    for number in numbers:
        begin = time.perf_counter()
        losses.append(float(step(number)))
        seconds.append(time.perf_counter() - begin)
    return seconds, losses


def at_once(step, numbers):
    """The same where a step goes on when step() returns: losses are waited for at the end."""
    begin = time.perf_counter()
    losses = [float(loss) for loss in [step(number) for number in numbers]]
    return [(time.perf_counter() - begin) / len(numbers)] * len(numbers), losses


def serve(name, start, take=one_by_one):
    """start(spec, params file, batch file) gives step(number) -> loss, or what float() makes it."""
    imports = memory("VmRSS")
    with open(sys.argv[1]) as f:
        step = start(json.load(f), *sys.argv[2:4])
    begin = time.perf_counter()
    losses = [float(step(1))]  # compiles
    compiled = time.perf_counter() - begin
    begin = time.perf_counter()
    losses.append(float(step(2)))
    compiled -= time.perf_counter() - begin
    print(json.dumps({"ready": name, "compile": max(compiled, 0), "losses": losses,
                      "imports": imports, "whole": memory("VmHWM")}), flush=True)
    done = 2
    reset_peak()
    for line in sys.stdin:
        numbers = range(done + 1, done + 1 + int(line))
        seconds, losses = take(step, numbers)
        done += len(numbers)
        told = {"seconds": seconds, "losses": losses, "rss": memory("VmHWM")}
        print(json.dumps(told), flush=True)
