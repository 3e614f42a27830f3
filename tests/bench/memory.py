"""What planned memory is worth: see README.md. Markdown tables on standard output, progress on
standard error.

    memory.py policies    the planner against fixed policies, ten budgets of three models
    memory.py predict     predicted against measured time of a step
    memory.py granular    state four times the device: by tensor against all or nothing
    memory.py disk        a model whose state exceeds this machine's memory trains from disk
"""
import argparse
import json
import pathlib
import tempfile

import memory_disk
import memory_granular
import memory_policies
import memory_predict
from memory_common import M6c

MINUTES = {"policies": 5, "predict": 4.5, "granular": 2.5, "disk": 0}  # begins no round after that
COMMANDS = {"policies": memory_policies.run, "predict": memory_predict.run,
            "granular": memory_granular.run, "disk": memory_disk.run}


def arguments():
    top = argparse.ArgumentParser()
    each = top.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        args = each.add_parser(name)
        args.add_argument("--link", default="2GB/s", help="rate of copies, each way; none: as fast "
                                                          "as the cores copy (2GB/s)")
        args.add_argument("--minutes", type=float, default=MINUTES[name],
                          help="no new round after that (%(default)s; the disk takes its steps)")
        args.add_argument("--threads", type=int)
        args.add_argument("--work", type=pathlib.Path, help="folder of plans, kept (temporary)")
        args.add_argument("--json", type=pathlib.Path, help="file for the figures")
        args.add_argument("--quick", action="store_true", help="calibrate in some seconds")
        args.add_argument("--steps", type=int, default=20 if name == "disk" else 6,
                          help="counted, a run (%(default)s)")
        if name in ("policies", "predict"):
            args.add_argument("--models", default="dense,moe,deep")
        if name == "policies":
            args.add_argument("--budgets", type=int, default=10)
        if name == "disk":
            args.add_argument("--disk", type=pathlib.Path, help="folder of the state (--work's)")
            args.add_argument("--scale", help="state, such as 256MB (more than the memory)")
    return top.parse_args()


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="m6c-memory-") as temporary:
        folder = (args.work or pathlib.Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        m6c = M6c(folder, None if args.link == "none" else args.link, args.threads)
        figures = COMMANDS[args.command](m6c, args)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
