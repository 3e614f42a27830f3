# The meshes of a cluster's ranks: the best first, why others lose, the command for the winner; what cannot be searched.
# RUN: ln -s %R/examples/clusters/whale-64x8-v100.m6c-machine %t/v100; cd %t && m6c search %s --cluster v100 --ranks 4 --target null --limit 3 | grep -v "slower by" | sed -E 's/(pipeline|data|tensor|expert)=[^ ]*/MESH/g; s/[+-]?[0-9][0-9,.]* ?(%|s of|ms|GB)/N \1/g; s/ +[0-9.]+ +[0-9.]+ +[0-9.]+ +0.00 .*/ N N N 0 .../; s/  +/ /g; s/^m6c compile [^ ]*/m6c compile/'
# RUN: m6c search %s --cluster %R/examples/clusters/whale-64x8-v100.m6c-machine --ranks 4 --target null --json --verify 2 --stages 1 | python3 -c 'import json, sys; o = json.load(sys.stdin); ms = [b["ms"] for b in o["best"]]; print(ms == sorted(ms), o["ranks"], o["tokens"], o["candidates"] > len(ms), [b["compiled"]["fits"] for b in o["best"] if "compiled" in b], all(abs(sum(b["parts_ms"].values()) / b["ms"] - 1) < 1e-6 for b in o["best"]))'
# RUN: m6c search %s --cluster %R/examples/clusters/whale-64x8-v100.m6c-machine --ranks 3 --target null --verify 0 --stages 1 | grep -A9 "^none"
# RUN: sed "s/^link.*//; s/^devices.*/devices 2/" %R/examples/clusters/whale-64x8-v100.m6c-machine >%t/island; m6c search %s --cluster %t/island --target null 2>&1; echo $?
# RUN: m6c search %s --target null 2>&1 | sed "s/'.*' does/MACHINE does/"
# RUN: m6c search %s --cluster %R/examples/clusters/h200-141gb.m6c-machine --ranks 2 --target null 2>&1; echo $?
# RUN: m6c search %s --mesh data=2 2>&1; echo $?
# RUN: m6c search %s --ranks -1 2>&1; echo $?
# RUN: m6c search %s --set width=3 --ranks 2 2>&1 | head -1 | sed "s/.*error/error/"
use "m6"
config batch = 64
model m(x: f32[batch, 64], y: f32[batch, 64]) {
    repeat 2 as block { x = x + ffn(x, 256) }
    return mean((x - y) * (x - y))
}
train m { optimizer = adamw(lr = 1e-3) }
# EXPECT:
64 nodes of 8x V100-SXM2N GB, 50 Gb/s Ethernet: 4 ranks, each with N GB and N GB of its host
241 candidates in N s of a core

rank ms a step tokens/s device GB host GB mesh micros zero again offload bound by
 N N N 0 ...
 compiled: N ms (N %), device N GB (N %), host N GB
 N N N 0 ...
 N N N 0 ...

why others lose:
 1 have too many stages nearest: MESH more stages than layers, 2

m6c compile --target null --cluster v100 --mesh MESH --memory N GB
True 4 64 True [True, True] True
none: nothing in this model can be split over so many ranks
error: '64 nodes of 8x V100-SXM2-32GB, 50 Gb/s Ethernet' has 64 nodes and needs a line like 'link nic 12.5GB/s latency 5us'
1
m6c: MACHINE does not say how many devices it has: give --ranks N, or --cluster FILE (examples/clusters has some)
error: 2 ranks need as many devices; '1x H200-SXM-141GB, 1.5 TB host' has 1
1
m6c: --mesh is what is searched for: m6c compile takes it
2
m6c: --ranks wants a number from 1 to 65536
2
error: --set width=3: unknown config 'width'
