"""A model whose state exceeds this machine's memory trains from disk.

Parameters and AdamW's moments live on the disk (12 bytes a parameter); the device gets an eighth of
that and the host's memory nothing. The number of layers follows from the machine's memory.
Gradients are not clipped: each update follows its gradient, and none has to wait on the disk.
"""
import shutil
import statistics
import time

from memory_common import MIB, UNCLIPPED, Failure, log, table

STATE, MARGIN = 12, 1.03  # bytes a parameter; state beside the machine's memory
DEVICE = 8  # times the device's budget is the state
TRIES = (1, 1.1, 1.25, 1.5)  # times the budget, after a run that failed
UNITS = {"KB": 10 ** 3, "MB": 10 ** 6, "GB": 10 ** 9, "KiB": 2 ** 10, "MiB": 2 ** 20,
         "GiB": 2 ** 30}
MOST_EXPERTS = 64


def bytes_of(text):
    for unit, scale in UNITS.items():
        if text.endswith(unit) and text[:-len(unit)].replace(".", "", 1).isdigit():
            return float(text[:-len(unit)]) * scale
    raise SystemExit(f"--scale takes a size with its unit, such as 256MB, not '{text}'")


def machine_bytes():
    for line in open("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/meminfo says no MemTotal")


def sized(state):
    """A mixture of experts with at least so many bytes of state: few tokens, many experts."""
    small = state < 2e9
    hidden, width = (128, 512) if small else (512, 2048)
    expert = STATE * 2 * hidden * width
    experts = min(MOST_EXPERTS, max(2, round(state / expert / 4) // 2 * 2))
    layers = max(1, -(-int(state) // (expert * experts)))
    return UNCLIPPED, dict(layers=layers, hidden=hidden, heads=8, ffn_width=width, experts=experts,
                        batch=4, length=48, vocab=2048)


class Traffic:
    """Bytes that the kernel says a process read from and wrote to disks."""

    def __init__(self):
        self.at = []

    def note(self, pid):
        words = dict(line.split(": ") for line in open(f"/proc/{pid}/io").read().splitlines())
        self.at.append((time.monotonic(), int(words["read_bytes"]), int(words["write_bytes"])))

    def rates(self):
        """Bytes a step, read and written, and bytes a second, of the steps after the first."""
        first, last = self.at[0], self.at[-1]
        steps, seconds = len(self.at) - 1, last[0] - first[0]
        return [(last[i] - first[i]) / steps for i in (1, 2)], \
            [(last[i] - first[i]) / seconds for i in (1, 2)]


def check_room(folder, needed):
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05 + 1e9:
        raise SystemExit(f"{folder} has {free / 1e9:.1f} GB free; the state takes "
                         f"{needed / 1e9:.1f} GB and the rest should stay free")


def train(m6c, plan, folder, args):
    """Seconds of the first step and of the others, the traffic, and seconds of preparation."""
    traffic, losses, begin = Traffic(), [], time.monotonic()
    started = {}

    def note(process, step, seconds, loss):
        started.setdefault("first", time.monotonic() - begin)
        traffic.note(process.pid)
        losses.append(loss)
        log(f"  step {step} of {args.steps}: {seconds:.1f} s, loss {loss:.4f}, "
            f"{time.monotonic() - begin:.0f} s in all")

    seconds = m6c.run(plan, args.steps, warm=0, options=["--disk", folder], told=note)
    return seconds, traffic, losses, started["first"] - seconds[0]


def run(m6c, args):
    memory = machine_bytes()
    state = bytes_of(args.scale) if args.scale else MARGIN * memory
    folder = (args.disk or m6c.folder).absolute()
    model = sized(state)
    check_room(folder, state)
    machine = m6c.folder / "machine-disk.txt"
    log(f"disk: calibrating, {folder}")
    measured = m6c.calibrate(machine, quick=args.quick, disk=folder)
    begin = time.monotonic()
    whole = m6c.compile("disk-whole", model, machine, only_plan=True)
    room = int(STATE * whole.told["parameters"] * 1.05) + 64 * MIB
    check_room(folder, room)
    tier = ["--disk", f"{folder}:{room // MIB}MiB"]
    budget = max(int(m6c.smallest(model, machine, *tier) * 1.5), int(state / DEVICE))
    failed = []
    for more in TRIES:
        plan = m6c.compile("disk", model, machine, *tier, memory=int(budget * more))
        told = plan.told
        log(f"disk: {told['parameters'] / 1e9:.3f} G parameters, device {plan.device / 1e6:.0f} MB,"
            f" disk {told['disk_bytes'] / 1e9:.2f} GB, {plan.predicted / 1e3:.1f} s a step "
            f"predicted, compiled in {time.monotonic() - begin:.0f} s")
        try:
            seconds, traffic, losses, prepared = train(m6c, plan, folder, args)
            break
        except Failure as error:
            failed.append(f"with {plan.device / 1e6:.0f} MB of the device: {error}")
            log(f"disk: the run failed {failed[-1]}")
    else:
        raise SystemExit("no plan could be run")
    each, rates = traffic.rates()
    figures = {
        "machine_bytes": memory, "parameters": plan.told["parameters"],
        "state_bytes": STATE * plan.told["parameters"], "disk_bytes": plan.told["disk_bytes"],
        "device_bytes": plan.device, "steps": len(seconds), "prepare_seconds": prepared,
        "step_seconds": statistics.median(seconds[1:] or seconds), "seconds": seconds,
        "predicted_seconds": plan.predicted / 1e3, "losses": losses,
        "read_bytes": each[0], "write_bytes": each[1], "read_gb_s": rates[0] / 1e9,
        "write_gb_s": rates[1] / 1e9, "calibrated_read_gb_s": measured["disk_read_gb_s"],
        "calibrated_write_gb_s": measured["disk_write_gb_s"]}
    print("\n### State on the disk\n")
    print(table(["", ""], rows(figures)))
    print("".join(f"\n**Failed** {line}" for line in failed), flush=True)
    return figures


def rows(f):
    return [("memory of the machine", f"{f['machine_bytes'] / 1e9:.2f} GB"),
            ("parameters", f"{f['parameters'] / 1e9:.3f} G"),
            ("parameters and moments", f"{f['state_bytes'] / 1e9:.2f} GB "
             f"({f['state_bytes'] / f['machine_bytes']:.2f} of the memory)"),
            ("the plan's disk, device", f"{f['disk_bytes'] / 1e9:.2f} GB, "
             f"{f['device_bytes'] / 1e6:.0f} MB"),
            ("initial parameters written in", f"{f['prepare_seconds']:.0f} s"),
            ("steps trained", f"{f['steps']}, loss {f['losses'][0]:.4f} to {f['losses'][-1]:.4f}"),
            ("step, median (predicted)", f"{f['step_seconds']:.2f} s "
             f"({f['predicted_seconds']:.2f} s)"),
            ("a step reads, writes", f"{f['read_bytes'] / 1e9:.2f} GB, "
             f"{f['write_bytes'] / 1e9:.2f} GB"),
            ("disk reads at", f"{f['read_gb_s']:.2f} GB/s (calibrated alone: "
             f"{f['calibrated_read_gb_s']:.2f})"),
            ("disk writes at", f"{f['write_gb_s']:.2f} GB/s (calibrated alone: "
             f"{f['calibrated_write_gb_s']:.2f})")]
