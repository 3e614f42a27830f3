#!/usr/bin/env python3
"""A disk that fills while a checkpoint is written: a message, exit status 3, and the checkpoint
before is intact. The disk is a small tmpfs; where none can be mounted the test is skipped."""
import os, pathlib, shutil, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from system import check, compile_small, m6c, make_data, workspace

with workspace() as folder:
    folder = pathlib.Path(folder)
    data = make_data(folder / "data")
    plan = compile_small(folder / "plan")
    run = ["run", plan, "--data", data, "--seed", "3"]
    m6c(*run, "--steps", "4")
    first = plan / "checkpoints/step-00000004.safetensors"
    size = first.stat().st_size
    disk = folder / "disk"
    disk.mkdir()
    # Room for one checkpoint and a half.
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", disk],
                      capture_output=True).returncode:
        print("cannot mount a tmpfs")
        sys.exit(77)
    try:
        shutil.move(first, disk)
        (plan / "checkpoints").rmdir()
        os.symlink(disk, plan / "checkpoints")
        before = (disk / first.name).read_bytes()
        _, err = m6c(*run, "--steps", "8", "--resume", status=3)
        check("No space left" in err, f"the message says why:\n{err}")
        names = sorted(p.name for p in disk.iterdir())
        check(names == [first.name], f"only the old checkpoint is there: {names}")
        check((disk / first.name).read_bytes() == before, "the old checkpoint is intact")
    finally:
        subprocess.run(["umount", disk], check=True)
