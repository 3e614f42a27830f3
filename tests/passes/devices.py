"""Machine files of the tests on unequal devices: their speed in GFLOP/s, GB/s and GOP/s, their memory, nothing else."""
DEVICE = """m6c-machine 1
name "{name}"
target cpu
devices {devices}
launch 1ns
vector {speed}GOPS
bandwidth {speed}GB/s
peak f32 {speed}GFLOPS
memory device {memory}
memory host 8GB
copy in 1GB/s
copy out 1GB/s
copy read 1GB/s
copy write 1GB/s
"""


def write_device(folder, name, speed, memory, devices=1):
    (folder / name).write_text(DEVICE.format(name=name, speed=speed, memory=memory, devices=devices))


def write_cluster(folder, name, groups, nodes=1):
    """So many nodes of each group, the name of a device's file."""
    lines = "".join(f'group {nodes} "{group}"\n' for group in groups)
    (folder / name).write_text(f'm6c-machine 1\nname "two kinds"\n{lines}link net 10GB/s latency 1us\n')
    return folder / name
