#!/usr/bin/env python3
"""Under Slurm, on two hosts made of namespaces: srun, mpirun in an allocation and a batch script train as one
rank does; a step that is told to end saves and is resumed; a killed rank ends the others, on the other host
too; srun without PMIx is refused with what to write instead. TIMEOUT: 240"""
import os, pathlib, re, shutil, signal, subprocess, sys, time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bench")]
from network import NET, Hosts
from system import M6C, check, compile_small, m6c, steps, workspace

OWN = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
TOOLS = ["slurmctld", "slurmd", "srun", "munged", "ip", "unshare", "nsenter", "mpirun"]
CONF = """ClusterName=m6c
SlurmctldHost={controller}({net}.254)
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
TmpFS={folder}/tmp-%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
NodeName=host0 NodeAddr={net}.1 CPUs=2
NodeName=host1 NodeAddr={net}.2 CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
"""
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", M6C_THREADS="1",
           OMPI_MCA_btl_tcp_if_include=f"{NET}.0/24", OMPI_MCA_oob_tcp_if_include=f"{NET}.0/24")


class Slurm:
    """`with Slurm(folder) as s: s.run(["srun", …])`: a controller here, a daemon on each of two hosts."""

    def __init__(self, folder):
        self.folder, self.hosts, self.daemons = folder, Hosts(2), []

    def start(self, *command):
        log = open(self.folder / "daemons.log", "a")
        self.daemons.append(subprocess.Popen(list(map(str, command)), env=ENV, stdout=log, stderr=log))

    def __enter__(self):
        self.hosts.__enter__()
        for name in ["state", "spool-host0", "spool-host1", "tmp-host0", "tmp-host1"]:
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        conf = self.folder / "slurm.conf"
        conf.write_text(CONF.format(folder=self.folder, net=NET, controller=os.uname().nodename))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        ENV["SLURM_CONF"] = str(conf)
        self.start("munged", "-F", "-f", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
                   f"--pid-file={self.folder}/munge.pid", f"--log-file={self.folder}/munge.log",
                   f"--seed-file={self.folder}/munge.seed")
        self.wait("munge's socket", lambda: (self.folder / "munge.socket").exists())
        self.start("slurmctld", "-D", "-i")
        for host, p in zip(self.hosts.names, self.hosts.process):
            self.start("nsenter", "-t", p.pid, "-n", "-u", "-i", "-m", "slurmd", "-D", "-N", host)
        self.wait("two idle hosts", lambda: "idle 2" in self.call("sinfo", "-h", "-o", "%T %D").stdout)
        return self

    def wait(self, what, ready, seconds=40):
        end = time.monotonic() + seconds
        while not ready():
            check(time.monotonic() < end, f"no {what} after {seconds} s\n" +
                  "".join(p.read_text(errors="replace")[-2000:] for p in self.folder.glob("*.log")))
            time.sleep(0.2)

    def call(self, *command, **env):
        return subprocess.run(list(map(str, command)), env={**ENV, **env}, capture_output=True, text=True, timeout=100)

    def __exit__(self, *_):
        for p in reversed(self.daemons):
            p.terminate()
        self.hosts.__exit__()


def run(plan, *more):
    return [M6C, "run", str(plan), "--data", "random:1", "--json", "--comm-timeout", "20s", *map(str, more)]


def losses(text):
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return [o["loss"] for o in steps("\n".join(lines)).values()]


def reference(one, n):
    out, _ = m6c(*run(one, "--steps", n)[1:])
    return losses(out)


def same(p, want, what):
    check(p.returncode == 0, f"{what}: exit status {p.returncode}\n{p.stdout}{p.stderr}")
    got = losses(p.stdout)
    check(len(got) == len(want) and all(abs(g - w) < 1e-5 * w for g, w in zip(got, want)),
          f"{what}: losses {got}, not {want}")


def starts(slurm, folder, plan, want):
    """The three ways to start ranks."""
    args = run(plan, "--steps", len(want))
    same(slurm.call("srun", "--mpi=pmix", "-N2", "-n4", *args), want, "srun")
    same(slurm.call("salloc", "-N2", "-n4", "mpirun", *args), want, "mpirun in an allocation")
    script, out = folder / "job.sh", folder / "job.out"
    script.write_text("#!/bin/sh\nexec srun --mpi=pmix " + " ".join(args) + "\n")
    p = slurm.call("sbatch", "-W", "-N2", "-n4", "-o", out, "-e", folder / "job.err", script)
    p.stdout = out.read_text()
    same(p, want, "a batch script")


def refusals(slurm, plan):
    p = slurm.call("srun", "--mpi=pmix", "-N2", "-n2", *run(plan, "--steps", 1))
    check(p.returncode == 2 and "the plan is for 4 ranks, this run has 2" in p.stderr, f"2 of 4 ranks: {p}")
    p = slurm.call("srun", "--mpi=none", "-N2", "-n4", *run(plan, "--steps", 1))
    check(p.returncode == 2 and "srun --mpi=pmix" in p.stderr and "OPAL" not in p.stderr, f"without PMIx: {p}")


def until_step(p, n):
    for line in p.stdout:
        if line.startswith("{") and f'"step":{n},' in line.replace(" ", ""):
            return
    check(False, f"ended before step {n}: {p.stderr.read()}")


def open_step(plan, *more):
    command = ["srun", "--mpi=pmix", "-N2", "-n4", *run(plan, *more)]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told_to_end(slurm, plan, one):
    """What Slurm does before a job's time is over, where it is asked to (--signal)."""
    p = open_step(plan, "--steps", 100000)
    until_step(p, 3)
    check(slurm.call("scancel", "--signal=TERM", "--state=RUNNING", "--user=root").returncode == 0, "scancel")
    _, err = p.communicate(timeout=60)
    stopped = re.search(r"stopped after step (\d+)", err)
    check(stopped, f"SIGTERM: exit status {p.returncode}\n{err}")
    step = int(stopped.group(1))
    p = slurm.call("srun", "--mpi=pmix", "-N2", "-n4", *run(plan, "--steps", step + 3, "--resume"))
    same(p, reference(one, step + 3)[step:], f"resumed after step {step}")


def ranks_of(host):
    """Processes of m6c on the host: those in its network namespace."""
    space = os.readlink(f"/proc/{host.pid}/ns/net")
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "exe") == os.path.realpath(M6C) and os.readlink(entry / "ns/net") == space:
                yield int(entry.name)
        except OSError:
            pass  # ended meanwhile


def killed(slurm, plan):
    p = open_step(plan, "--steps", 100000)
    until_step(p, 3)
    os.kill(min(ranks_of(slurm.hosts.process[1])), signal.SIGKILL)
    begin = time.monotonic()
    _, err = p.communicate(timeout=60)
    check(p.returncode in (3, 137), f"a killed rank: exit status {p.returncode}\n{err}")
    check(re.search(r"rank [23] was lost", err), f"a killed rank: nobody says who\n{err}")
    check(not list(ranks_of(slurm.hosts.process[0])), "ranks are left on the other host")
    print(f"after a kill all ended in {time.monotonic() - begin:.1f} s")


def main():
    missing = [t for t in TOOLS if not shutil.which(t)]
    if missing or os.geteuid() != 0:
        print("skipped:", f"there is no {missing[0]} here" if missing else "needs root, for namespaces")
        sys.exit(77)
    if os.environ.get("M6C_OWN_NETWORK") != "1":
        os.environ["M6C_OWN_NETWORK"] = "1"
        if subprocess.run([*OWN, "ip", "link", "add", "bridge0", "type", "bridge"], capture_output=True).returncode:
            print("skipped: no namespaces with networks may be made here")
            sys.exit(77)
        os.execvp(OWN[0], [*OWN, sys.executable, __file__])
    with workspace() as folder:
        folder = pathlib.Path(folder)
        one = compile_small(folder / "one")
        plan = compile_small(folder / "plan", "--mesh", "data=4,expert=data")
        with Slurm(folder) as slurm:
            starts(slurm, folder, plan, reference(one, 4))
            refusals(slurm, plan)
            told_to_end(slurm, plan, one)
            killed(slurm, plan)


main()
