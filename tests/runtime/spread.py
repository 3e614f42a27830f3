"""A plan rewritten so that its tensors lie on the device, the host and the disk by turns."""
import re

BUFFER = re.compile(r'buffer (\d+) (\w+) (".*?") (\S+) device\+(\d+)(.*)')


def spread(text):
    """The plan with every tensor but each third moved, and fetched and brought back by copies."""
    lines = text.splitlines()
    number = {"in": 1, "out": 2, "read": 4, "write": 5}  # of the streams
    tensors = [int(re.match(r"tensor b(\d+)", l)[1]) for l in lines if l.startswith("tensor")]
    buffers = {int(m[1]): m for m in map(BUFFER.match, lines) if m}
    size = {"f32": 4, "bf16": 2, "f16": 2, "i32": 4, "f64": 8}
    top, new, room = len(buffers), {}, {"host": 0, "disk": 0}
    added, first, last = [], [], []
    for i, b in enumerate(tensors):
        if i % 3 == 0:
            continue
        mem = ("host", "disk")[i % 3 - 1]
        _, kind, name, dtype, _, loc = buffers[b].groups()
        n = size[dtype.split("[")[0]]
        for d in re.findall(r"\d+", dtype.split("[")[1]):
            n *= int(d)
        new[b] = top
        added.append(f"buffer {top} {kind} {name} {dtype} {mem}+{room[mem]}{loc}")
        ways = ("in", "out") if mem == "host" else ("read", "write")
        first.append((f"copy bytes={n} stream={number[ways[0]]} args=b{b},b{top}", b))
        last.append(f"copy bytes={n} stream={number[ways[1]]} args=b{top},b{b}")
        room[mem] += (n + 63) // 64 * 64
        top += 1
    fetched = {b: i for i, (_, b) in enumerate(first)}
    out, steps = [], len(first)
    for l in lines:
        if l.startswith("arena "):
            l = re.sub(r"host=0 disk=0", f"host={room['host']} disk={room['disk']}", l)
        m = BUFFER.match(l)
        if m and int(m[1]) in new:
            l = f'buffer {m[1]} temp {m[3][:-1]} here" {m[4]} device+{m[5]}{m[6]}'
        if added and l.startswith("tensor"):
            out += added
            added = []
        l = re.sub(r"^tensor b(\d+)", lambda m: f"tensor b{new.get(int(m[1]), int(m[1]))}", l)
        if first and l.startswith("step "):
            out += [f'step {i} {copy} ; "fetch" - -' for i, (copy, _) in enumerate(first)]
            first = []
        if l.startswith("step "):
            uses = {int(b) for b in re.findall(r"b(\d+)", re.search(r"args=(\S+)", l)[1])}
            wait = sorted(fetched[b] for b in uses if b in fetched)
            l = re.sub(r"^step \d+", f"step {steps}", l)
            if wait:
                l = l.replace(" ;", f" wait={','.join(map(str, wait))} ;", 1)
            steps += 1
        if l == "end":
            out += [f'step {steps + i} {copy} wait={steps - 1} ; "bring back" - -'
                    for i, copy in enumerate(last)]
        out.append(l)
    return "\n".join(out) + "\n", room
