use "m6"

model many(x: f32[1, 4, 8]) {
    return mean(moe(x, 12001, 1, 1.25, 8))
}
# More experts in a prototype than a block of a GPU can count.
# RUN: m6c compile %s --target sm_80 --plan-only -o %t/plan 2>&1 | head -1; test ! -e %t/plan
# RUN: m6c compile %s --target cpu --plan-only -o %t/plan >/dev/null
# EXPECT:
m6.m6:79:37: error: a prototype of 12001 experts: a GPU's shared memory counts the tokens of at most 12000; use more prototypes
