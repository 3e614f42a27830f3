# All that the ranks of a tensor axis tell each other of a vocabulary of 512: words that were found, three numbers for
# each row of logits, gradients of words, and the norm of all gradients; never logits or rows of the table. A table is
# not split when that does not pay, or when the ranks do not divide it.
# RUN: m6c dump %s --mesh tensor=2 --after shard | grep -E '= (all|reduce_)|(param|state) .*table"' | sed -E 's/^[^=]*= ([a-z_]*) .*(reduce=|name=)"([a-z/]*)".*[]}] : ([^@]*) (@.*)?; ([^ ]*).*/\1 \3 \4 \6/'
# RUN: m6c dump %s --mesh tensor=2 --set vocab=24 --after shard | grep -E 'param .*table"' | grep -oE 'f32.*@[^ ]*'
# RUN: m6c dump %s --mesh tensor=2 --set vocab=513 --after shard | grep -E 'param .*table"' | grep -oE 'f32.*@[^ ]*'
use "m6"
config batch = 4, length = 3, vocab = 512
model lm(text: i32[batch, length], target: i32[batch, length]) {
    param table: [vocab, 8] = normal(0.02)
    x = gather(table, text)
    x = x + ffn(norm(x), 16)
    return cross_entropy(einsum("btd,vd->btv", norm(x), table), target)
}
train lm {
    optimizer = sgd(lr = 0.1)
}
# EXPECT:
param table f32[256,8] ""
all_reduce sum f32[4,3,8] ""
all_reduce sum f32[4,3,8] ffn.down
all_reduce max f32[4,3] cross_entropy
all_reduce sum (f32[4,3], f32[4,3]) cross_entropy
all_reduce sum f32[4,3,8] ""
all_reduce sum f32[4,3,8] ffn.up
all_reduce sum f32[] grad_norm
state table/m f32[256,8] optimizer/table
f32[24,8] @[_,_]
f32[513,8] @[_,_]
