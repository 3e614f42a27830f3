#!/usr/bin/env python3
"""Runs the tests: tests/run.py [-b BUILD[:KINDS]]... [-j JOBS] [-v] [PART OF A NAME]...

unit   the C programs registered in meson.build
text   tests/**/*.t: an input with directives, which are comments (; or #):
         RUN: COMMAND       a shell line, run in a fresh folder; `m6c` is the one just built
                            %s the input (a copy of all before EXPECT), %t the fresh folder,
                            %S the test's own folder, %R the repository
         EXPECT:            what follows is what the commands print on stdout (M6C_BLESS=1 rewrites)
         EXIT: N            exit status of the last command (0; with error lines 1)
         error: L:C: TEXT   stderr has "INPUT:L:C: error: TEXT..."; there are no other errors
       Without RUN the command is `m6c compile %s -o %t/plan`. The input of name.m6.t is name.m6.
script executable tests/**/check_* and, under the Python of build/venv, tests/oracle/test_*.py
A kind may also be a part of the name of scripts: -b build-asan:unit,text,check_language.
Exit status 77 means skipped. A script with the words `TIMEOUT: N` in it may take N seconds.
"""
import argparse, concurrent.futures, difflib, json, os, pathlib, re, shutil, subprocess, sys
import tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
NVRTC = ROOT / "build/nvrtc/nvidia/libnvrtc.so.13"  # of tests/setup.sh cuda
DIRECTIVE = re.compile(r"^\s*[;#]\s*(RUN|EXIT|error):\s*(.*?)\s*$", re.M)
EXPECT = re.compile(r"^[;#] EXPECT:[ \t]*\n", re.M)
ERROR = re.compile(r"^(\S.*?):(\d+):(\d+): error: (.*)$", re.M)


def sh(command, build, cwd, timeout, **more):
    env = dict(os.environ, PATH=f"{build}:{os.environ['PATH']}", M6C=str(build / "m6c"),
               BUILD=str(build), UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1", **more)
    if NVRTC.exists():
        env.setdefault("M6C_NVRTC", str(NVRTC))
    try:
        p = subprocess.run(command, shell=isinstance(command, str), cwd=cwd, env=env,
                           executable="/bin/bash" if isinstance(command, str) else None,
                           stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        return 124, (late.stdout or b"").decode(errors="replace"), f"no end after {timeout} s\n"
    decode = lambda b: b.decode("utf-8", "surrogateescape")
    return p.returncode, decode(p.stdout), decode(p.stderr)


def program(command, build, timeout):
    status, out, err = sh(command, build, ROOT, timeout)
    return ("skip" if status == 77 else "fail" if status else "pass"), out + err


def check_errors(wanted, name, err):
    """Every expected error is there and no other; returns what is wrong."""
    seen = [f"{line}:{col}: {text}" for file, line, col, text in ERROR.findall(err)
            if os.path.basename(file) == name]
    left, wrong = list(seen), ""
    for want in wanted:
        found = next((s for s in left if s.startswith(want)), None)
        if found is None:
            wrong += f"no error: {want}\n"
        else:
            left.remove(found)
    return wrong + "".join(f"unexpected error: {s}\n" for s in left)


def text_test(path, build):
    raw = path.read_bytes().decode("utf-8", "surrogateescape")
    body, *expected = EXPECT.split(raw, 1)
    says = DIRECTIVE.findall(body)
    runs = [v for k, v in says if k == "RUN"]
    errors = [v for k, v in says if k == "error"]
    if not runs and not errors:
        return "fail", "neither a RUN nor an error line\n"
    name = path.name[:-2] if path.suffix == ".t" and path.stem.count(".") else path.name
    folder = tempfile.mkdtemp(prefix="m6c-test-")
    try:
        (pathlib.Path(folder) / name).write_bytes(body.encode("utf-8", "surrogateescape"))
        out = err = ""
        for run in runs or ["m6c compile %s -o %t/plan"]:
            for key, value in (("%s", name), ("%t", folder), ("%S", path.parent), ("%R", ROOT)):
                run = run.replace(key, str(value))
            status, o, e = sh(run, build, folder, 120, ASAN_OPTIONS="detect_leaks=0")
            out, err = out + o, err + e
            if status == 77:
                return "skip", err
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    out = out.replace(folder, "%t")
    want_status = next((int(v) for k, v in says if k == "EXIT"), 1 if errors else 0)
    wrong = f"exit status {status}, expected {want_status}\n" if status != want_status else ""
    if errors:
        wrong += check_errors(errors, name, err)
    if expected and out != expected[0]:
        if os.environ.get("M6C_BLESS") and not wrong:
            marker = EXPECT.search(raw).group(0)
            path.write_bytes((body + marker + out).encode("utf-8", "surrogateescape"))
        else:
            lines = [t.splitlines(True) for t in (expected[0], out)]
            wrong += "".join(difflib.unified_diff(*lines, "expected", "printed", n=2))
    return ("fail", wrong + err) if wrong else ("pass", "")


def unit_tests(build):
    listed = subprocess.run(["meson", "introspect", "--tests", str(build)], capture_output=True)
    for t in json.loads(listed.stdout):
        yield f"unit/{t['name']}", lambda t=t: program(t["cmd"], build, t["timeout"])


def text_tests(build):
    for path in sorted(TESTS.rglob("*.t")):
        yield str(path.relative_to(TESTS)), lambda p=path: text_test(p, build)


def script_tests(build, part=""):
    python = str(ROOT / "build/venv/bin/python")
    for path in sorted([*TESTS.rglob("check_*"), *TESTS.glob("oracle/test_*.py")]):
        oracle = path.parent.name == "oracle"
        if part in str(path) and (oracle or os.access(path, os.X_OK)):
            limit = re.search(r"TIMEOUT: (\d+)", path.read_text(errors="replace"))
            command = [python] * oracle + [str(path)]
            yield (str(path.relative_to(TESTS)),
                   lambda c=command, s=int(limit[1]) if limit else 300: program(c, build, s))


KINDS = {"unit": unit_tests, "text": text_tests, "script": script_tests}


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-b", "--build", action="append", help="folder[:unit,text,script]")
    args.add_argument("-j", "--jobs", type=int, default=2)
    args.add_argument("-v", "--verbose", action="store_true")
    args.add_argument("part", nargs="*")
    args = args.parse_args()
    tests = []
    for spec in args.build or ["build"]:
        folder, _, kinds = spec.partition(":")
        prefix = "" if folder == "build" else f"{folder}/"
        for kind in kinds.split(",") if kinds else KINDS:
            found = KINDS[kind] if kind in KINDS else lambda b, part=kind: script_tests(b, part)
            tests += [(prefix + n, run) for n, run in found(ROOT / folder)]
    if args.part:
        tests = [t for t in tests if any(p in t[0] for p in args.part)]

    def timed(test):
        begin = time.monotonic()
        result, text = test[1]()
        return test[0], result, text, time.monotonic() - begin

    count, times = {"pass": 0, "fail": 0, "skip": 0}, []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for name, result, text, seconds in pool.map(timed, tests):
            count[result] += 1
            times.append((seconds, name))
            if result != "pass" or args.verbose:
                text = text.encode("utf-8", "replace").decode()[-6000:]
                print(f"{result}: {name}\n{text.rstrip()}".rstrip(), flush=True)
    print("slowest:", ", ".join(f"{name} {s:.1f} s" for s, name in sorted(times)[:-11:-1]))
    print(f"{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped")
    return 1 if count["fail"] or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
