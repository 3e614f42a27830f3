/* base_share.c: parts of what the ranks along one axis divide unevenly. */
#include "ir/base.h"

int64_t shares_sum(Shares s, int64_t n) {
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += s.v[i];
    return sum;
}

void shares_print(Shares s, Buf *out) {
    for (int64_t i = 0; i < s.n; i++) buf_printf(out, i ? ",%lld" : "%lld", (long long)s.v[i]);
}

Shares shares_reduced(int64_t n, int64_t *v) {
    int64_t d = 0;
    for (int64_t i = 0; i < n; i++) d = common_divisor(v[i], d);
    for (int64_t i = 0; i < n; i++) v[i] /= d;
    return shares_sum((Shares){n, v}, n) == n ? (Shares){0} : (Shares){n, v};
}

/* Where the class that begins at `first` ends. */
static int64_t class_end(Shares s, int64_t first) {
    int64_t end = first + 1;
    while (end < s.n && s.v[end] == s.v[first]) end++;
    return end;
}

int64_t shares_classes(Shares s) {
    int64_t n = 0;
    for (int64_t first = 0; first < s.n; first = class_end(s, first)) n++;
    return MAX(n, (int64_t)1);
}

ShareClass shares_class(Shares s, int64_t c) {
    if (s.n == 0) return (ShareClass){0, 1, 1, 0};
    int64_t first = 0;
    while (c-- > 0) first = class_end(s, first);
    ASSERT(first < s.n);
    return (ShareClass){first, class_end(s, first) - first, s.v[first], shares_sum(s, first)};
}

int64_t shares_class_of(Shares s, int64_t i) {
    int64_t c = 0;
    for (int64_t end = 0; s.n && (end = class_end(s, end)) <= i;) c++;
    return c;
}

bool shares_divide(Shares s, int64_t members, int64_t whole) {
    if (s.n == 0) return whole % members == 0;
    int64_t total = shares_sum(s, s.n);
    bool good = whole % total == 0;
    for (int64_t i = 0; i < s.n && good; i++) good = whole / total * s.v[i] % (members / s.n) == 0;
    return good;
}

ShareRange shares_range(Shares s, int64_t members, int64_t whole, int64_t index) {
    if (s.n == 0) return (ShareRange){whole / members * index, whole / members};
    int64_t each = members / s.n, i = index / each, unit = whole / shares_sum(s, s.n);
    int64_t size = unit * s.v[i] / each;
    return (ShareRange){unit * shares_sum(s, i) + size * (index % each), size};
}

int64_t shares_whole(Shares s, int64_t members, int64_t index, int64_t part) {
    if (s.n == 0) return part * members;
    int64_t each = members / s.n, share = s.v[index / each], of_share, whole;
    bool whole_units = !__builtin_mul_overflow(part, each, &of_share) && of_share % share == 0;
    if (!whole_units || __builtin_mul_overflow(of_share / share, shares_sum(s, s.n), &whole))
        return -1;
    return whole;
}
