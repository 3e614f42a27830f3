"""The readable form of a report: run.py's results as markdown."""

NOTES = {"us": "{} us", "unfused_us": "unfused {} us", "of_equal_copy": "{} of a copy as large",
         "bytes": "{} bytes", "count": "{} in a step", "batch": "batch {}", "parameters": "{} parameters"}


def number(x):
    if x == 0 or 1e-3 <= abs(x) < 1e6:
        return f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"
    return f"{x:.2e}"


def target(f):
    if "target" not in f:
        return " | "
    verdict = {True: "met", False: "**missed**", None: "not judged"}[f.get("met")]
    return f"{number(f['target'])} | {verdict}"


def notes(f):
    """What a figure says besides."""
    told = []
    for key, text in NOTES.items():
        if key in f:
            told.append(text.format(number(f[key])))
    if "peer" in f:
        told.append("; ".join(f"{b} {number(us)} us" for b, us in f["peers_us"].items()))
    if f.get("place"):
        told.append(f"{f.get('scope') or '-'} {f['place']}")
    return ", ".join(told)


def figures(rows):
    lines = ["| figure | median | quartiles | unit | n | target | | |", "|---|---|---|---|---|---|---|---|"]
    for f in rows:
        lines.append(f"| {f['name'].replace('|', '/')} | {number(f['median'])} "
                     f"| {number(f['low'])} .. {number(f['high'])} | {f['unit']} | {f['n']} "
                     f"| {target(f)} | {notes(f)} |")
    return lines


def checks(rows):
    count = {r: sum(c["result"] == r for c in rows) for r in ("pass", "fail", "skip")}
    lines = [f"{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped.", ""]
    for c in rows:
        last = c["note"].strip().splitlines()[-1][:300] if c["note"].strip() else ""
        last = "" if last.endswith(": ok") else last
        lines.append(f"* {c['result'] if c['result'] != 'fail' else '**fail**'}: {c['name']}"
                     f"{': ' + last if last else ''}")
    return lines


def targets(phases):
    """How many targets of a phase were met; where there are few, which."""
    lines = []
    for name, phase in phases.items():
        judged = [f for f in phase["figures"] if "met" in f]
        if judged:
            lines.append(f"* {name}: {sum(f['met'] for f in judged)} of {len(judged)} targets met")
        for f in judged if len(judged) < 8 else []:
            lines.append(f"  * {f['name']}: {number(f['median'])} {f['unit']}, target {target(f)}"
                         .replace(" | ", ": "))
    return lines


def head(r):
    d, smi = r["device"], r["nvidia_smi"]
    versions = [f"driver {smi.get('driver_version', '?')} (CUDA {d['driver'] // 1000}."
                f"{d['driver'] % 1000 // 10})", f"NVRTC {r['nvrtc'] or 'not found'}",
                f"cuBLASLt {d['cublaslt'] or 'not found'}", f"PyTorch {r.get('torch', 'not used')}",
                f"m6c {d['m6c']} at {r['commit'] or '?'}"]
    lines = [f"# m6c on {d['name']}", ""]
    if not r["measured"]:
        lines += ["**Not measured on a GPU, or with sizes that only try the scripts: no figure here is a "
                  "result.**", ""]
    lines += [f"{d['arch']}, {d['processors']} multiprocessors, {d['memory'] / 2**30:.1f} GiB, L2 "
              f"{d['l2'] / 2**20:.0f} MiB; " + ", ".join(versions) + ".", ""]
    if smi:
        lines += [", ".join(f"{k} {v}" for k, v in smi.items()) + ".", ""]
    return lines + ["Times are medians of CUDA events, with the quartiles; single kernels run with cold "
                    "caches. MFU: FLOP of products and attention over the best bf16 product rate "
                    "measured here.", ""]


def markdown(r):
    lines = head(r) + targets(r["phases"]) + [""]
    for name, phase in r["phases"].items():
        lines += [f"## {name} ({phase.get('finished', 'not finished')}, {phase.get('seconds', 0)} s)", ""]
        if phase["checks"]:
            lines += checks(phase["checks"]) + [""]
        if phase["figures"]:
            lines += figures(phase["figures"]) + [""]
        lines += [f"* missing: {m}" for m in phase["missing"]] + [""] * bool(phase["missing"])
    return "\n".join(lines).rstrip() + "\n"
