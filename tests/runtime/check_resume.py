#!/usr/bin/env python3
"""kill -9 at 20 random moments of a run, also while checkpoints are written: what --resume goes on
with has bit-equal losses and ends with bit-equal parameters. Interrupts save and can be resumed."""
import pathlib, random, signal, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import M6C, check, compile_small, m6c, make_data, steps, workspace

STEPS, KILLS = 150, 20


def command(plan, data, *more):
    # A checkpoint every other step, so that many kills hit the writing of one.
    return ["run", str(plan), "--data", str(data), "--steps", str(STEPS), "--save-every", "2",
            "--json", *more]


def losses(text):
    return {n: o["loss"] for n, o in steps("\n".join(text.splitlines())).items()}


def whole_lines(raw):
    return raw[:raw.rfind(b"\n") + 1].decode()


def killed_run(plan, data, seconds, sig, *more):
    p = subprocess.Popen([M6C, *command(plan, data, *more)], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    try:
        raw, err = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        p.send_signal(sig)
        raw, err = p.communicate(timeout=60)
    return losses(whole_lines(raw)), p.returncode, err.decode()


def compare(seen, want, what):
    for n, loss in seen.items():
        check(loss == want[n], f"{what}: step {n} has loss {loss!r}, undisturbed {want[n]!r}")


with workspace() as folder:
    folder = pathlib.Path(folder)
    data = make_data(folder / "data")
    plan = compile_small(folder / "plan")
    begin = time.monotonic()
    out, _ = m6c(*command(plan, data, "--save", folder / "want.safetensors"))
    whole = time.monotonic() - begin
    want = losses(out)
    check(sorted(want) == list(range(1, STEPS + 1)), "a report for every step")
    parameters = (folder / "want.safetensors").read_bytes()
    dice = random.Random(7)
    resumed_at = []
    for trial in range(KILLS):
        for old in (plan / "checkpoints").glob("*"):
            old.unlink()
        moment = dice.uniform(0.02, whole)
        seen, status, _ = killed_run(plan, data, moment, signal.SIGKILL)
        check(status in (0, -signal.SIGKILL), f"trial {trial}: exit status {status}")
        compare(seen, want, f"trial {trial}, before the kill")
        final = folder / "got.safetensors"
        out, err = m6c(*command(plan, data, "--resume", "--save", final))
        after = losses(out)
        compare(after, want, f"trial {trial}, resumed after {moment:.3f} s")
        resumed_at.append(min(after, default=STEPS))
        check(final.read_bytes() == parameters, f"trial {trial}: other parameters at the end")
        left = [p.name for p in (plan / "checkpoints").iterdir() if not p.name.startswith("step-")
                or not p.name.endswith(".safetensors")]
        check(not left, f"trial {trial}: left behind {left}")
    check(len(set(resumed_at)) > 3, f"the kills hit different moments (resumed at {resumed_at})")
    for old in (plan / "checkpoints").glob("*"):
        old.unlink()
    seen, status, err = killed_run(plan, data, whole / 2, signal.SIGINT)
    check(status == 0 and "stopped after step" in err, f"SIGINT: exit status {status}\n{err}")
    out, _ = m6c(*command(plan, data, "--resume"))
    check(min(losses(out)) == max(seen) + 1, "an interrupt loses no step")
    compare(losses(out), want, "resumed after an interrupt")
    print(f"resumed at steps {sorted(resumed_at)}, whole run {whole:.2f} s")
