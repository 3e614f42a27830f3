/* shard_loss.c: cross-entropy of logits that lie on the ranks by classes, as in Megatron-LM
 * (Shoeybi et al. 2019): the ranks tell each other the largest logit of each row, then in one
 * message the sums of exponentials and the target's logit, which one of them has. Logits stay where
 * they are. The gradient, softmax less one at the target, is every rank's own: it reads lse. */
#include "passes/shard.h"

void shard_cross_entropy(Shard *s, Value logits, Value target, Axes axes, Value res[2]) {
    Graph *g = s->to;
    const Type *t = type_of(g, logits);
    Dtype wide = t->dtype == DT_F64 ? DT_F64 : DT_F32;
    Value x = b_cast(g, logits, wide);
    Value max = shard_reduce(s, b_reduce_last(g, OP_max, x), axes, REDUCE_MAX);
    Value below = b_ew2(g, OP_sub, x, b_repeat_last(g, max, t->dim[t->rank - 1]));
    Value part[] = {b_reduce_last(g, OP_sum, b_ew1(g, OP_exp, below)),
                    b_cast(g, b_pick_one(g, logits, target), wide)};
    Value sums =
        b_all_reduce(g, COUNT(part), part, axes_name(s, axes), axes_parts(s, axes), REDUCE_SUM);
    res[1] = b_ew2(g, OP_add, b_ew1(g, OP_log, b_proj(g, sums, 0)), max);
    res[0] = b_ew2(g, OP_sub, res[1], b_proj(g, sums, 1));
}
