/* base_num.c: numbers as text and as storage formats.
 *
 * Text never depends on the locale: a decimal comma set by somebody's setlocale is undone here. */
#include "ir/base.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers as text ---- */

/* Replaces the first `from` in s by `to`, closing or keeping the gap; for decimal points. */
static void swap_point(char *s, const char *from, const char *to, size_t room) {
    if (strcmp(from, to) == 0) return;
    char *at = strstr(s, from);
    if (!at || strlen(s) + strlen(to) >= room) return;
    memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
    memcpy(at, to, strlen(to));
}

/* "1e+06" is "1e6", "1e-07" is "1e-7". */
static void trim_exponent(char *s) {
    char *e = strchr(s, 'e');
    if (!e) return;
    char *from = e + 1, *to = e + 1;
    if (*from == '-') from++, to++;
    while (*from == '+' || (*from == '0' && from[1])) from++;
    memmove(to, from, strlen(from) + 1);
}

/* A lower bound, mostly exact, of the digits that tell x apart: any 15 survive the way to a double
 * and back (not so among subnormals), so those of the 15 nearest x that are not trailing zeros. */
static int fewest_digits(double x) {
    char s[48];
    if (fabs(x) < DBL_MIN) return 1;
    snprintf(s, sizeof s, "%.14e", x);
    char *end = strchr(s, 'e');
    int digits = 15;
    while (digits > 1 && *--end == '0') digits--;
    return digits;
}

void buf_double(Buf *b, double x) {
    char s[48] = "nan";
    if (isinf(x)) {
        strcpy(s, x < 0 ? "-inf" : "inf");
    } else if (x == floor(x) && fabs(x) < 1e6) {
        snprintf(s, sizeof s, "%.0f", x);
    } else if (!isnan(x)) {
        int digits = fewest_digits(x);
        do snprintf(s, sizeof s, "%.*g", digits, x);
        while (strtod(s, NULL) != x && digits++ < 17);
        swap_point(s, localeconv()->decimal_point, ".", sizeof s);
        trim_exponent(s);
    }
    buf_puts(b, s);
}

/* The length of [-]digits[.digits][e[+-]digits] at s, or 0. */
static size_t number_length(const char *s, size_t n) {
    size_t i = 0, digits = 0;
    if (i < n && s[i] == '-') i++;
    for (; i < n && s[i] >= '0' && s[i] <= '9'; i++) digits++;
    if (i < n && s[i] == '.')
        for (i++; i < n && s[i] >= '0' && s[i] <= '9'; i++) digits++;
    if (digits == 0) return 0;
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        size_t j = i + 1, from;
        if (j < n && (s[j] == '-' || s[j] == '+')) j++;
        for (from = j; j < n && s[j] >= '0' && s[j] <= '9';) j++;
        if (j > from) i = j;
    }
    return i;
}

bool parse_f64(const char *s, size_t n, double *x) {
    char t[400];
    if (n == 3 && memcmp(s, "nan", 3) == 0) return *x = NAN, true;
    if (n == 3 && memcmp(s, "inf", 3) == 0) return *x = INFINITY, true;
    if (n == 4 && memcmp(s, "-inf", 4) == 0) return *x = -INFINITY, true;
    if (n == 0 || n + 8 > sizeof t || number_length(s, n) != n) return false;
    memcpy(t, s, n);
    t[n] = 0;
    swap_point(t, ".", localeconv()->decimal_point, sizeof t);
    *x = strtod(t, NULL);
    return isfinite(*x);
}

bool parse_i64(const char *s, size_t n, int64_t *x) {
    bool negative = n && s[0] == '-';
    uint64_t v = 0, limit = (uint64_t)INT64_MAX + negative;
    if (n == negative) return false;
    for (size_t i = negative; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
        uint64_t digit = (uint64_t)(s[i] - '0');
        if (v > (limit - digit) / 10) return false;
        v = v * 10 + digit;
    }
    *x = negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ---- arithmetic ---- */

int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int64_t common_divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t r = a % b;
        a = b, b = r;
    }
    return a;
}

/* ---- storage formats ---- */

static const struct {
    const char *name;
    int size;
    bool is_float;
} dtypes[] = {
    [DT_F32] = {"f32", 4, true},    [DT_BF16] = {"bf16", 2, true},    [DT_F16] = {"f16", 2, true},
    [DT_F64] = {"f64", 8, true},    [DT_I32] = {"i32", 4, false},     [DT_I64] = {"i64", 8, false},
    [DT_BOOL] = {"bool", 1, false}, [DT_TUPLE] = {"tuple", 0, false},
};
_Static_assert(COUNT(dtypes) == DT_COUNT, "one row per dtype");

const char *dtype_name(Dtype d) { return dtypes[d].name; }
int dtype_size(Dtype d) { return dtypes[d].size; }
bool dtype_is_float(Dtype d) { return dtypes[d].is_float; }
bool dtype_is_half(Dtype d) { return dtypes[d].is_float && dtypes[d].size == 2; }

bool dtype_parse(const char *s, Dtype *d) {
    for (unsigned i = 0; i < DT_COUNT; i++)
        if (strcmp(s, dtypes[i].name) == 0) return *d = (Dtype)i, true;
    return false;
}

static uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float bf16_to_f32(uint16_t h) { return bits_float((uint32_t)h << 16); }

uint16_t f32_to_bf16(float x) {
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40); /* quiet NaN */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return bits_float(sign | 0x7f800000u | m << 13);
    if (e) return bits_float(sign | (e + 112) << 23 | m << 13);
    float tiny = (float)m * 0x1p-24f;
    return sign ? -tiny : tiny;
}

uint16_t f32_to_f16(float x) {
    uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* 65520 and up round to infinity */
    if (a >= 0x38800000u)
        return (uint16_t)(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13);
    /* Below 2^-14 a half has steps of 2^-24: adding 0.5, whose last bit is 2^-24, rounds there. */
    return (uint16_t)(sign | (float_bits(bits_float(a) + 0.5f) - 0x3f000000u));
}

/* ---- memories and streams ---- */

const char *mem_name(Mem m) {
    static const char *const name[] = {"device", "host", "disk"};
    _Static_assert(COUNT(name) == MEM_COUNT, "a name for each");
    return name[m];
}

const char *stream_name(Stream s) {
    static const char *const name[] = {"compute", "in",    "out",  "host",
                                       "read",    "write", "comm", "comm2"};
    _Static_assert(COUNT(name) == STREAM_COUNT, "a name for each");
    return name[s];
}

const char *collective_name(Collective c) {
    static const char *const name[] = {"all_reduce", "all_gather", "reduce_scatter",
                                       "all_to_all", "send",       "recv"};
    _Static_assert(COUNT(name) == COLLECTIVE_COUNT, "a name for each");
    return name[c];
}

int64_t levels_index(int n, const int64_t *size, const int64_t *stride, int64_t rank) {
    int64_t index = 0;
    for (int i = 0; i < n; i++) index = index * size[i] + rank / stride[i] % size[i];
    return index;
}

int64_t levels_member(int n, const int64_t *size, const int64_t *stride, int64_t rank,
                      int64_t index) {
    for (int i = n; i-- > 0; index /= size[i])
        rank += (index % size[i] - rank / stride[i] % size[i]) * stride[i];
    return rank;
}

static const char *const reductions[REDUCE_COUNT] = {"sum", "max", "min"};

const char *reduce_name(ReduceOp op) { return reductions[op]; }

bool reduce_parse(const char *name, ReduceOp *op) {
    for (int i = 0; i < REDUCE_COUNT; i++)
        if (strcmp(name, reductions[i]) == 0) return *op = (ReduceOp)i, true;
    return false;
}

Stream stream_of_copy(Mem from, Mem to) {
    if (from == MEM_DISK) return STREAM_READ;
    if (to == MEM_DISK) return STREAM_WRITE;
    if (from == to) return from == MEM_HOST ? STREAM_HOST : STREAM_COMPUTE;
    return to == MEM_DEVICE ? STREAM_IN : STREAM_OUT;
}
