# What ranks send in a step. Plans for several ranks read back to the same text.
# RUN: m6c compile %s -o %t/p --mesh data=2 >/dev/null && m6c inspect %t/p --comm | sed "s/, [0-9.]* ms//; /^all/s/ *[0-9.]*$//"
# RUN: m6c inspect %t/p --comm --json | python3 -c 'import json, sys; print([(c["kind"], c["group"], c["number"], c["sent_bytes"]) for c in json.load(sys.stdin)["comm"]["collectives"]])'
# RUN: m6c compile %s -o %t/one >/dev/null && m6c inspect %t/one --comm
config batch = 64
model m(x: f32[batch, 64]) {
    param w: [64, 32] = normal(1)
    y = x @ w
    return mean(y * y)
}
train m {
    optimizer = p_minus_g(lr = 1)
}
optimizer p_minus_g(p, g, lr) {
    return p - lr * g
}
# EXPECT:
2 ranks, mesh data=2
group data                 1 x 2 ranks, the first: 0 1
a rank and step, MiB, ms:
collective      group        number  messages   operands       sent   forward  backward     apply     alone
all_reduce      data              2         4      0.008      0.008     0.000     0.008     0.000
together: 2 collectives, 0.008 MiB sent
largest first:
       0.008 MiB  step 5     all_reduce      data     backward  - inspect_comm.m6:8:11
       0.000 MiB  step 2     all_reduce      data     forward   - inspect_comm.m6:9:12
[('all_reduce', 'data', 2, 8196.0)]
one rank: nothing is sent
