"""Hosts on one machine: namespaces behind a bridge, each with one shaped link.

To be run in a network, mount and PID namespace of its own (alltoall.sh starts it so): the hosts are
namespaces of processes in there, and the system takes all of it away when the last one ends,
however that happens. A host has its own network, host name, shared memory and /dev/shm, without
which Open MPI takes ranks of two hosts for neighbours. Ranks of one host share memory."""
import json, os, pathlib, shlex, subprocess, tempfile

NET = "10.77.0"
# A link lets what it saved up go at once: two frames of the largest size, and no more.
FRAME, BURST, QUEUE = 9000, 18000, 16000000
# TCP as on a network without loss: Reno (BBR, where it is the default, slows itself for 200 ms at a
# time), and sockets that do not put megabytes of one message before those to others.
SOCKET = "4096 1048576 1048576"


def sh(*args):
    subprocess.run([*map(str, args)], check=True, stdout=subprocess.DEVNULL)


class Hosts:
    """`with Hosts(3) as h: h.shape(200); h.mpirun(2, [...])`: 2 ranks on each of 3 hosts."""

    def __init__(self, count):
        self.names = [f"host{i}" for i in range(count)]
        self.process = []
        self.folder = tempfile.TemporaryDirectory(prefix="m6c-hosts-")
        self.path = pathlib.Path(self.folder.name)

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make(self):
        names = ["127.0.0.1 localhost", f"{NET}.254 {os.uname().nodename}"]
        names += [f"{NET}.{i + 1} {name}" for i, name in enumerate(self.names)]
        (self.path / "hosts").write_text("\n".join(names) + "\n")
        sh("mount", "--bind", self.path / "hosts", "/etc/hosts")
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "m6c-bridge", "mtu", FRAME, "type", "bridge")
        sh("ip", "addr", "add", f"{NET}.254/24", "dev", "m6c-bridge")
        sh("ip", "link", "set", "m6c-bridge", "up")
        for i, name in enumerate(self.names):
            self.make_host(i, name)
        agent = self.path / "agent"
        agent.write_text("#!/bin/sh\nhost=$1\nshift\n"
                         f'exec nsenter -t "$(cat {self.path}/$host.pid)" -n -u -i -m sh -c "$*"\n')
        agent.chmod(0o755)

    def make_host(self, i, name):
        inside = (f"hostname {name} && mount -t tmpfs tmpfs /dev/shm && ip link set lo up && "
                  "cd /proc/sys/net/ipv4 && echo reno >tcp_congestion_control && "
                  "echo 0 >tcp_slow_start_after_idle && echo 262144 >tcp_limit_output_bytes && "
                  f"echo {SOCKET} >tcp_wmem && echo {SOCKET} >tcp_rmem && "
                  "echo ready && exec sleep infinity")
        p = subprocess.Popen(["unshare", "--net", "--uts", "--ipc", "--mount", "sh", "-c", inside],
                             stdout=subprocess.PIPE, text=True)
        self.process.append(p)
        if p.stdout.readline() != "ready\n":
            raise RuntimeError(f"cannot make {name}")
        (self.path / f"{name}.pid").write_text(str(p.pid))
        sh("ip", "link", "add", f"port{i}", "mtu", FRAME, "type", "veth", "peer", "name", "eth0",
           "mtu", FRAME, "netns", p.pid)
        sh("ip", "link", "set", f"port{i}", "master", "m6c-bridge", "up")
        self.inside(i, "ip", "addr", "add", f"{NET}.{i + 1}/24", "dev", "eth0")
        self.inside(i, "ip", "link", "set", "eth0", "up")

    def inside(self, i, *args):
        sh("nsenter", "-t", self.process[i].pid, "-n", *args)

    def sent(self, i):
        """Bytes that host i has sent over its link."""
        said = subprocess.run(["nsenter", "-t", str(self.process[i].pid), "-n", "ip", "-s", "-j", "link",
                               "show", "eth0"], check=True, capture_output=True, text=True).stdout
        return json.loads(said)[0]["stats64"]["tx"]["bytes"]

    def shape(self, mbits):
        """So many Mb/s out of each host, and as many into it."""
        tbf = ["root", "tbf", "rate", f"{mbits}mbit", "burst", BURST, "limit", QUEUE]
        for i in range(len(self.names)):
            sh("tc", "qdisc", "replace", "dev", f"port{i}", *tbf)
            self.inside(i, "tc", "qdisc", "replace", "dev", "eth0", *tbf)

    def mpirun(self, per_host, command, mca=(), env=None, timeout=600):
        """Rank r is on host r / per_host. Returns the finished process, its output as text."""
        options = {"plm_rsh_agent": self.path / "agent", "plm_rsh_no_tree_spawn": 1,
                   "btl_tcp_if_include": f"{NET}.0/24", "oob_tcp_if_include": f"{NET}.0/24",
                   "btl": "self,vader,tcp", "pml": "ob1", "mpi_yield_when_idle": 1, **dict(mca)}
        args = ["mpirun", "--host", ",".join(f"{n}:{per_host}" for n in self.names),
                "-n", str(per_host * len(self.names)), "--map-by", "slot"]
        for key, value in options.items():
            args += ["--mca", key, str(value)]
        env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", **(env or {})}
        for key in env:
            args += ["-x", key]
        p = subprocess.run([*args, *map(str, command)], capture_output=True, text=True,
                           timeout=timeout, env={**os.environ, **env})
        if p.returncode:
            raise RuntimeError(f"{shlex.join(map(str, command))}: status {p.returncode}\n"
                               f"{p.stdout[-1000:]}{p.stderr[-1000:]}")
        return p

    def __exit__(self, *_):
        for i, p in enumerate(self.process):
            subprocess.run(["ip", "link", "del", f"port{i}"], stderr=subprocess.DEVNULL)
            p.kill()
            p.wait()
        subprocess.run(["ip", "link", "del", "m6c-bridge"], stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "/etc/hosts"], stderr=subprocess.DEVNULL)
        self.folder.cleanup()
