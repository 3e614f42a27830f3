# Numbered files of all stages; one stage by name, with a number for a later run; passes left out.
# RUN: m6c dump %s --all %t/all && ls %t/all | head -9
# RUN: m6c dump %s --after simplify:2 | cmp - %t/all/08-simplify.ir && echo the second simplify
# RUN: m6c dump %s --after elaborate | cmp - %t/all/00-elaborate.ir && echo before any pass
# RUN: m6c dump %s --after raise | grep -o '= softmax'
# RUN: M6C_SKIP=simplify,raise m6c dump %s --all %t/skip && ls %t/skip | head -3
# RUN: M6C_SKIP=simplfy m6c dump %s --after optimize 2>&1 | sed 's/.*error: //'
# RUN: m6c dump %s --after raise:2 2>&1 | sed "s/.*error: //"
# RUN: m6c dump %s --mesh pipeline=2 --stage 2 --after stages 2>&1 | sed "s/.*error: //"
# RUN: m6c dump %s --stage -1 2>&1 | sed "s/.*m6c: //"
model m(x: f32[4, 3]) {
    param w: [3, 5] = normal(1)
    e = x @ w
    e = exp(e - max(e, axis = -1, keep = true))
    return mean(e / sum(e, axis = -1, keep = true))
}
train m {
    optimizer = p_minus_g(lr = 1)
}
optimizer p_minus_g(p, g, lr) {
    return p - lr * g
}
# EXPECT:
00-elaborate.ir
01-simplify.ir
02-raise.ir
03-precision.ir
04-differentiate.ir
05-optimize.ir
06-shares.ir
07-shard.ir
08-simplify.ir
the second simplify
before any pass
= softmax
00-elaborate.ir
03-precision.ir
04-differentiate.ir
unknown pass 'simplfy'; did you mean 'simplify'?
nothing to show: 'raise:2' did not run
there is no stage 2: the pipeline has 2, from 0
--stage must not be negative
