#!/usr/bin/env python3
"""Times m6c search: tests/bench/search.py: candidates a second of one core on the large examples and
their clusters, and how far the best one's formulas are from its plans. It asserts nothing."""
import json, os, pathlib, subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
M6C = os.environ.get("M6C", str(ROOT / "build/m6c"))
WHALE, SINGLE = "whale-64x8-v100", "m6-1t-480x1-v100"
ROWS = (("m6-10b", WHALE, "--ranks", "64"), ("m6-100b", WHALE, "--set", "factored=true"),
        ("m6-t-1t", SINGLE), ("m6-10t", WHALE))

print(f"{'example':8} {'ranks':>5} {'candidates':>10} {'seconds':>8} {'a second':>9}  best, without pipelines its plan")
for name, cluster, *more in ROWS:
    def search(*args):
        line = [M6C, "search", ROOT / f"examples/{name}.m6", "--cluster",
                ROOT / f"examples/clusters/{cluster}.m6c-machine", "--target", "null", "--json", *more, *args]
        return json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    o, flat = search("--verify", "0"), search("--stages", "1")
    told = o["best"][0]["mesh"] if o["best"] else "none"
    if flat["best"] and "ms" in flat["best"][0]["compiled"]:
        b, c = flat["best"][0], flat["best"][0]["compiled"]
        told += f"; {b['mesh']}: {b['ms']:.1f} ms, plan {c['ms']:.1f}; {b['device_bytes'] / 1e9:.2f} GB, " \
                f"plan {c['device_bytes'] / 1e9:.2f}"
    print(f"{name:8} {o['ranks']:5} {o['candidates']:10} {o['seconds']:8.3f} "
          f"{o['candidates'] / max(o['seconds'], 1e-9):9.0f}  {told}", flush=True)
