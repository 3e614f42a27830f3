#!/usr/bin/env python3
"""Broken, missing and misplaced files: the right exit status, a message that names the file, and
nothing overwritten. What is broken: checkpoints, plans, kernels, tensors given to --init and
--data, captions, pictures, vocabularies, models that changed, and places that cannot be written."""
import base64, hashlib, json, os, pathlib, random, shutil, struct, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import HERE, M6C, check, compile_small, m6c, make_data, workspace

INPUT, USAGE, SYSTEM = 1, 2, 3


def fingerprint(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def refuses(status, says, *args, keeps=None, **more):
    """The command exits with `status`; one of its last lines has all parts of `says`."""
    before = fingerprint(keeps) if keeps else None
    _, err = m6c(*args, status=status, **more)
    said = any(all(str(s) in line for s in says) for line in err.splitlines())
    check(said, f"m6c {' '.join(map(str, args))}\nsays {says}, but said:\n{err}")
    check("internal error" not in err and "Sanitizer" not in err, err)
    if keeps:
        check(fingerprint(keeps) == before, f"{keeps} stays as it was: {' '.join(map(str, args))}")
    return err


# ---- safetensors by hand ----

def read_tensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + n]), raw[8 + n:]


def write_tensors(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def spoil_header(path, to, change):
    header, data = read_tensors(path)
    data = change(header, data) or data
    return write_tensors(to, header, data)


def append(header, data, name, dtype, shape, raw):
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
    return data + raw


def without(name):
    def change(header, data):
        b, e = header.pop(name)["data_offsets"]
        for k, v in header.items():
            if k != "__metadata__" and v["data_offsets"][0] >= e:
                v["data_offsets"] = [x - (e - b) for x in v["data_offsets"]]
        return data[:b] + data[e:]
    return change


def reshaped(name, shape):
    return lambda header, data: header[name].update(shape=shape)


def retyped(name, dtype):
    return lambda header, data: header[name].update(dtype=dtype)


# ---- the cases ----

def checkpoints(folder, plan, data):
    good = plan / "checkpoints/step-00000002.safetensors"
    whole = good.read_bytes()
    resume = ["run", plan, "--data", data, "--steps", "4", "--resume"]
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (0, 7, 8, 100, header - 1, header, header + 1000, len(whole) - 1):
        good.write_bytes(whole[:length])
        refuses(INPUT, [good.name], *resume, keeps=plan)
    dice = random.Random(1)
    for _ in range(10):  # a byte of the data is another one
        at = dice.randrange(header, len(whole))
        good.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1:])
        refuses(INPUT, [good.name], *resume, keeps=plan)
    good.write_bytes(dice.randbytes(5000))
    refuses(INPUT, [good.name], *resume, keeps=plan)
    refuses(INPUT, [good.name], "run", plan, "--data", data, "--validate", keeps=plan)
    source = folder / "good.safetensors"
    source.write_bytes(whole)
    meta = lambda **more: lambda h, d: h["__metadata__"].update(more)
    for change, says in ((without("head.bias"), "head.bias"), (retyped("head.bias", "I32"), "i32"),
                         (reshaped("head.bias", [700, 2]), "head.bias"), (meta(step="x"), "step"),
                         (meta(step="-1"), "negative"), (meta(index="99999999"), "position"),
                         (meta(format="other"), "not a checkpoint")):
        spoil_header(source, good, change)
        refuses(INPUT, [says], *resume, keeps=plan)
    good.unlink()
    good.mkdir()
    refuses(INPUT, [good.name], *resume, keeps=plan)
    good.rmdir()
    good.write_bytes(whole)
    other = compile_small(folder / "other", "--set", "hidden=48")
    shutil.copytree(plan / "checkpoints", other / "checkpoints")
    refuses(INPUT, [good.name, "[192,32]", "[192,48]"], "run", other, "--data", data, "--steps",
            "4", "--resume", keeps=other)
    fresh = compile_small(folder / "fresh")
    _, err = m6c("run", fresh, "--data", data, "--steps", "2", "--resume")
    check("no checkpoint in" in err, err)
    m6c(*resume)
    check((plan / "checkpoints/step-00000004.safetensors").exists(), "the good one still works")


def plans(folder, plan, data):
    run = lambda p: ["run", p, "--data", data, "--steps", "3"]
    refuses(INPUT, ["nowhere"], *run(folder / "nowhere"))
    refuses(INPUT, [data / "plan.txt"], *run(data), keeps=data)
    broken = folder / "broken"
    shutil.copytree(plan, broken)
    text = (plan / "plan.txt").read_bytes()
    lines = text.splitlines(True)
    dice = random.Random(2)
    spoilt = [b"", b"\n", dice.randbytes(3000), text[:len(text) // 2], b"".join(lines[:-1]),
              b"".join(lines[:-5]), text.replace(b"m6c-plan 1", b"m6c-plan 9", 1),
              text.replace(b"buffer 3 ", b"buffer 4 ", 1), text + lines[-2], lines[0] * 2]
    spoilt += [text[:dice.randrange(len(text) - 1)] for _ in range(10)]  # more is gone than the last newline
    for bad in spoilt:
        (broken / "plan.txt").write_bytes(bad)
        for command in (run(broken), ["inspect", broken]):
            refuses(INPUT, ["plan.txt", "error"], *command, keeps=broken)
    (broken / "plan.txt").write_bytes(text)
    kernels = broken / "plan_0.so"
    for spoil in (kernels.unlink, lambda: kernels.write_bytes(b"no library"),
                  lambda: shutil.copy(plan / "plan_1.so", kernels)):
        spoil()
        refuses(INPUT, ["plan_0"], *run(broken), keeps=broken)
    shutil.copy(plan / "plan_0.so", kernels)
    (broken / "forward.txt").unlink()
    refuses(INPUT, ["forward.txt"], "run", broken, "--data", data, "--validate", keeps=broken)


def stale(folder, data):
    model, plan = folder / "changing.m6", folder / "stale"
    text = (HERE / "small.m6").read_text()
    model.write_text(text)
    m6c("compile", model, "-o", plan, "--set", "hidden=16")
    _, err = m6c("inspect", plan)
    check("stale" not in err, err)
    model.write_text(text + "# changed\n")
    for command in (["inspect", plan], ["run", plan, "--data", data, "--steps", "1"]):
        _, err = m6c(*command)
        check("stale plan" in err and str(model) in err, err)
        check(f"m6c compile {model} -o {plan} --set hidden=16" in err, err)
    model.unlink()
    _, err = m6c("inspect", plan)
    check("stale" not in err, f"a plan without its source is not called stale:\n{err}")
    model.write_text("model broken(")
    before = fingerprint(plan)
    refuses(INPUT, [model], "compile", model, "-o", plan)
    check(fingerprint(plan) == before, "a model with a mistake leaves the plan alone")


def given_tensors(folder, plan, data):
    init = folder / "init.safetensors"
    m6c("run", plan, "--data", data, "--steps", "1", "--save", init)
    bad = folder / "bad.safetensors"
    run = ["run", plan, "--data", data, "--steps", "2", "--init", bad]
    refuses(INPUT, ["bad.safetensors", "No such file"], *run, keeps=plan)
    for change, says in (
            (without("norm.scale"), ["norm.scale"]),
            (reshaped("norm.scale", [4, 8]), ["norm.scale", "[4,8]", "[32]"]),
            (retyped("norm.scale", "I32"), ["norm.scale", "i32", "f32"]),
            (lambda h, d: append(h, d, "stranger", "F32", [1], bytes(4)), ["stranger"]),
            (lambda h, d: d[:-1], ["bad.safetensors"]),
            (lambda h, d: d + b"x", ["bad.safetensors"])):
        spoil_header(init, bad, change)
        refuses(INPUT, says + ["bad.safetensors"], *run, keeps=plan)
    bad.write_bytes(b"\xff" * 100)
    refuses(INPUT, ["bad.safetensors"], *run, keeps=plan)

    batch = {}
    raw = append(batch, b"", "image", "F32", [8, 4, 192], bytes(4 * 8 * 4 * 192))
    raw = append(batch, raw, "text", "I32", [8, 12], bytes(4 * 96))
    raw = append(batch, raw, "target", "I32", [8, 12], bytes(4 * 96))
    good = write_tensors(folder / "batch.safetensors", batch, raw)
    run = ["run", plan, "--data", bad, "--steps", "2"]
    high = struct.pack("<i", 1400)
    for change, says in (
            (without("text"), ["text", "i32[8,12]"]),
            (reshaped("text", [12, 8]), ["text", "[12,8]", "[8,12]"]),
            (retyped("text", "F32"), ["text", "f32"]),
            (lambda h, d: d[:h["text"]["data_offsets"][0]] + high
             + d[h["text"]["data_offsets"][0] + 4:], ["text", "1400"]),
            (lambda h, d: d[:-4], [])):
        spoil_header(good, bad, change)
        refuses(INPUT, says + ["bad.safetensors"], *run, keeps=plan)
    m6c("run", plan, "--data", good, "--steps", "1")


def captions(folder, plan, data):
    bad = folder / "captions"

    def fresh():
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(data, bad)

    def wants(says, status=INPUT):
        refuses(status, says, "run", plan, "--data", bad, "--steps", "400", keeps=bad)

    fresh()
    jsonl, tsv, vocab = bad / "IC_train.jsonl", bad / "IC_train.tsv", bad / "vocab.txt"
    lines, rows = jsonl.read_bytes().splitlines(True), tsv.read_bytes().splitlines(True)
    for path in (jsonl, tsv, vocab):
        fresh()
        path.unlink()
        wants([path.name, "No such file"])
        path.write_bytes(b"")
        wants([path.name])
        path.write_bytes(random.Random(3).randbytes(4000))
        wants([path.name])
    fresh()
    for line in (b"{\n", b"[]\n", b'{"text": 3}\n', b'{"image_id": "1"}\n', b"\xff\xfe\n",
                 lines[2][:len(lines[2]) // 2]):
        jsonl.write_bytes(b"".join(lines[:2]) + line + (b"" if line.endswith(b"\n") else b"\n"))
        wants(["IC_train.jsonl:3"])
    fresh()
    first = rows[0].split(b"\t")[0]
    png = base64.urlsafe_b64decode(rows[0].split(b"\t")[1].strip() + b"==")
    for picture in (b"!!!!", b"", base64.urlsafe_b64encode(b"no picture"),
                    base64.urlsafe_b64encode(png[:len(png) // 2]),
                    base64.urlsafe_b64encode(png[:60] + b"\0" * 40 + png[100:])):
        tsv.write_bytes(first + b"\t" + picture + b"\n" + b"".join(rows[1:]))
        wants(["IC_train.tsv"])
    tsv.write_bytes(b"".join(rows[1:]))
    wants([first.decode()])
    tsv.write_bytes(rows[0] + b"".join(rows))
    wants(["IC_train.tsv"])
    fresh()
    words = vocab.read_text().splitlines()
    for text in (words[1:], words + words[-1:]):
        vocab.write_text("\n".join(text) + "\n")
        wants(["vocab.txt"])
    vocab.write_text("\n".join(words + [f"word{i}" for i in range(1400)]) + "\n")
    wants(["vocab"])
    refuses(INPUT, ["IC_nothing.jsonl"], "run", plan, "--data", data, "--split", "nothing",
            "--steps", "2", keeps=plan)
    refuses(INPUT, ["nowhere"], "run", plan, "--data", folder / "nowhere", "--steps", "2")
    refuses(INPUT, ["vocab.txt"], "run", plan, "--data", data / "vocab.txt", "--steps", "2")
    refuses(INPUT, ["random:x"], "run", plan, "--data", "random:x", "--steps", "2")
    refuses(USAGE, ["--data"], "run", plan, "--steps", "2")


def places(folder, plan, data):
    small, file = HERE / "small.m6", folder / "a file"
    file.write_text("precious")
    run = ["run", plan, "--data", data, "--steps", "5"]
    refuses(SYSTEM, ["a file", "not a folder"], "compile", small, "-o", file)
    refuses(SYSTEM, ["a file"], "compile", small, "-o", file / "plan")
    refuses(SYSTEM, ["a file", "not a folder"], "dump", small, "--all", file)
    refuses(SYSTEM, ["/proc/none"], "compile", small, "-o", "/proc/none")
    for option in ("--out", "--save", "--log", "--trace"):
        for place in (folder / "no folder/x", folder, file / "x"):
            refuses(SYSTEM, ["cannot write", place], *run, option, place, keeps=plan)
    refuses(USAGE, ["--grads"], *run, "--grads", folder / "grads.safetensors", keeps=plan)
    check(file.read_text() == "precious", "the file is as it was")
    kept = folder / "kept"
    shutil.copytree(plan, kept)
    shutil.rmtree(kept / "checkpoints")
    (kept / "checkpoints").write_text("precious")
    refuses(SYSTEM, ["checkpoints"], "run", kept, "--data", data, "--steps", "5", keeps=kept)
    none = {"M6C_CACHE": str(folder / "cache"), "CC": "no-such-compiler"}
    refuses(SYSTEM, ["no-such-compiler"], "compile", small, "-o", folder / "p",
            env={**os.environ, **none})
    refuses(SYSTEM, ["a file"], "compile", small, "-o", folder / "p",
            env={**os.environ, "M6C_CACHE": str(file)})
    with open("/dev/full", "w") as full:
        for command in (["inspect", plan], ["dump", small], ["fmt", small], [*run, "--json"]):
            p = subprocess.run([M6C, *map(str, command)], stdout=full, stderr=subprocess.PIPE,
                               text=True)
            check(p.returncode == SYSTEM, f"{command} to a full disk: {p.returncode} {p.stderr}")


with workspace() as folder:
    folder = pathlib.Path(folder)
    data = make_data(folder / "data")
    plan = compile_small(folder / "plan")
    m6c("run", plan, "--data", data, "--steps", "2")
    checkpoints(folder, plan, data)
    plans(folder, plan, data)
    stale(folder, data)
    given_tensors(folder, plan, data)
    captions(folder, plan, data)
    places(folder, plan, data)
