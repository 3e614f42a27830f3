#!/usr/bin/env python3
"""m6c calibrate writes a profile that is sane and parses; with a plan's folder it adds the prices of
the plan's steps; mistakes are told. No times are asserted: the machine may be busy."""
# TIMEOUT: 300
import json, os, pathlib, re, shutil, subprocess, sys, tempfile

M6C = os.environ.get("M6C", "m6c")
MODEL = pathlib.Path(__file__).resolve().parent.parent / "runtime/small.m6"
failures = 0


def check(ok, what):
    global failures
    if not ok:
        failures += 1
        print("failed:", what)


def m6c(*args, status=0):
    p = subprocess.run([M6C, *args], capture_output=True, text=True)
    check(p.returncode == status, f"m6c {' '.join(args)}: exit {p.returncode}\n{p.stderr}")
    return p


def several(*args, status=0):
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    p = subprocess.run(["mpirun", "-n", "2", M6C, *map(str, args)], capture_output=True, text=True,
                       env=env)
    check(p.returncode == status, f"2 ranks, {args}: exit {p.returncode}\n{p.stderr}")


def lines(path, key):
    return [l for l in path.read_text().splitlines() if l.split()[0] == key]


with tempfile.TemporaryDirectory() as tmp:
    tmp = pathlib.Path(tmp)
    os.environ["M6C_CACHE"] = str(tmp / "cache")
    profile = tmp / "profile.txt"
    out = json.loads(m6c("calibrate", "--quick", "--json", "--disk", str(tmp),
                         "-o", str(profile)).stdout)
    check(out["profile"] == str(profile), "the profile's path")
    for key, least, most in [("product_gflops", 0.01, 1e6), ("memory_gb_s", 0.01, 1e5),
                             ("copy_in_gb_s", 0.001, 1e4), ("copy_out_gb_s", 0.001, 1e4),
                             ("disk_read_gb_s", 1e-4, 1e4), ("disk_write_gb_s", 1e-4, 1e4)]:
        check(least < out[key] < most, f"{key} is {out[key]}")
    text = profile.read_text()
    check(text.startswith("m6c-machine 1\nname "), "the head")
    check(len(lines(profile, "product")) > 20, "products")
    check(len(lines(profile, "bandwidth")) > 2, "bandwidths")
    check(len(lines(profile, "copy")) == 4, "copies")
    check(all(0 < float(l.split()[-1]) <= 1 for l in lines(profile, "slow")), "speeds")
    check(len(lines(profile, "slow")) >= 9, "how streams slow each other")

    # The plan's steps: one line for each distinct piece of work, replaced by another measurement.
    plan = tmp / "plan"
    m6c("compile", str(MODEL), "-o", str(plan))
    m6c("calibrate", str(plan), "--quick", "-o", str(profile))
    steps = lines(profile, "step")
    keys = [re.sub(r" \S+us$", "", l) for l in steps]
    check(len(steps) > 5 and len(set(keys)) == len(keys), "prices of steps")
    check(profile.read_text() == text + "".join(l + "\n" for l in steps),
          "what was measured before stays")
    m6c("calibrate", str(plan), "--quick", "-o", str(profile))
    check([re.sub(r" \S+us$", "", l) for l in lines(profile, "step")] == keys, "measured again")
    # Prices of steps, and a budget below what is kept: copies and what they replace are priced too.
    whole = json.loads(m6c("compile", str(MODEL), "-o", str(plan), "--json").stdout)["device_bytes"]
    m6c("compile", str(MODEL), "-o", str(plan), "--cluster", str(profile), "--memory", f"{int(0.8 * whole)}B",
        "--host-memory", "1GB")

    # Without -o: into the cache folder, where compile finds it.
    m6c("calibrate", str(plan), "--quick")
    check(lines(tmp / "cache/profile.txt", "step"), "a profile in the cache folder")
    m6c("compile", str(MODEL), "-o", str(plan))
    (tmp / "cache/profile.txt").write_text("m6c-machine 1\nlanch 3us\n")
    bad = m6c("compile", str(MODEL), "-o", str(plan), status=1)
    check("profile.txt:2:1: error: a machine has no 'lanch'; did you mean 'launch'?" in bad.stderr,
          "a profile with a mistake")

    # Several ranks measure what is between them, and the steps of a plan for as many.
    if shutil.which("mpirun"):
        before = profile.read_text()
        several("calibrate", "--quick", "-o", profile)
        check(len(lines(profile, "link")) == 1 and lines(profile, "devices") == ["devices 2"] and
              lines(profile, "nodes") == ["nodes 1"], f"links of one host: {lines(profile, 'link')}")
        check([l for l in profile.read_text().splitlines() if l.split()[0] not in
               ("link", "devices", "nodes")] == before.splitlines(), "all else stays")
        two = tmp / "two"
        m6c("compile", str(MODEL), "-o", str(two), "--mesh", "data=2", "--cluster", str(profile))
        several("calibrate", two, "--quick", "-o", profile)
        check(len(lines(profile, "step")) > len(steps), "prices of a rank's steps")
        check(not any("all_reduce" in l for l in lines(profile, "step")), "collectives are links'")
        for again in (False, True):
            if again:
                several("calibrate", two, "--quick", "-o", profile)
            taken = [l for l in lines(profile, "slow") if "comm" in l]
            check([l.rsplit(" ", 1)[0] for l in taken] ==
                  ["slow compute while comm", "slow compute while comm2"] and
                  all(0 < float(l.split()[-1]) <= 1 for l in taken), f"communication takes: {taken}")
        m6c("calibrate", str(two), status=2)
        several("calibrate", "--json", status=2)

    m6c("calibrate", str(tmp / "nothing"), status=1)
    m6c("calibrate", "--link", "fast", status=2)
    m6c("calibrate", "--quick", "--disk", str(tmp / "nothing"), status=3)
    check(not (tmp / "cache/profile.txt").read_text().startswith("m6c-machine 1\nname"),
          "nothing is written when something fails")

sys.exit(failures > 0)
