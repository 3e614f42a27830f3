/* fmt.c: the canonical text of a file. Rules: four spaces per block; one space around binary
 * operators, but none around `*` and `/` inside square brackets; parentheses only where precedence
 * asks for them; keys of train and place padded to one width; at most one blank line in a row;
 * comments stay with their statement, and those at the ends of neighbouring lines are aligned;
 * lines longer than 100 columns break after a comma inside brackets.
 *
 * Lines are collected first, so that alignment and breaking see them whole. */
#include <stdlib.h>
#include <string.h>
#include "frontend/frontend.h"

enum { WIDTH = 100, INDENT = 4 };

typedef struct {
    Buf text;
    const char *comment; /* after the text, NULL if none */
    int indent;
} Line;

typedef struct {
    VEC(Line) lines;
    Buf now; /* the line being written */
    int indent;
    const Comment *pending;
    uint32_t source_line; /* last source line that has been written */
} Printer;

/* ---- lines and comments ---- */

static void end_line(Printer *p) {
    Line l = {.text = p->now, .indent = p->indent};
    p->now = (Buf){0};
    vec_push(&p->lines, l);
}

/* A blank line is kept between things that had one, but not at the start of a block. */
static void keep_blank(Printer *p, uint32_t line) {
    bool gap = p->source_line && line > p->source_line + 1;
    const Line *last = p->lines.n ? &p->lines.p[p->lines.n - 1] : NULL;
    if (gap && last && last->text.n && last->text.p[last->text.n - 1] != '{') {
        Line blank = {0};
        vec_push(&p->lines, blank);
    }
}

static void take_comment(Printer *p) {
    keep_blank(p, p->pending->line);
    buf_puts(&p->now, p->pending->text);
    end_line(p);
    p->source_line = p->pending->line;
    p->pending = p->pending->next;
}

/* Comments that stand before source line `line`, each on its own line. */
static void comments_before(Printer *p, uint32_t line) {
    while (p->pending && p->pending->line < line) take_comment(p);
}

/* Begins the text of what stands on lines first to last. Comments from within a statement that
 * spans lines go before it. */
static void begin(Printer *p, uint32_t first, uint32_t last) {
    comments_before(p, last);
    keep_blank(p, first);
    p->source_line = last;
}

static void finish(Printer *p, uint32_t last) {
    end_line(p);
    p->source_line = last;
    if (!p->pending || p->pending->line != last) return;
    p->lines.p[p->lines.n - 1].comment = p->pending->text;
    p->pending = p->pending->next;
}

/* ---- expressions ---- */

static void put_expr(Buf *b, const Expr *e, int outer, bool tight);

static void put_args(Buf *b, const Arg *a, bool tight) {
    for (; a; a = a->next) {
        if (a->name) buf_printf(b, "%s = ", a->name);
        put_expr(b, a->value, 0, tight);
        if (a->next) buf_puts(b, ", ");
    }
}

static void put_slices(Buf *b, const Slice *s) {
    for (; s; s = s->next) {
        if (s->lo) put_expr(b, s->lo, 0, true);
        if (s->range) buf_puts(b, ":");
        if (s->hi) put_expr(b, s->hi, 0, true);
        if (s->next) buf_puts(b, ", ");
    }
}

static void put_string(Buf *b, const char *s) {
    buf_puts(b, "\"");
    for (; *s; s++) {
        if (*s == '\n' || *s == '\t') {
            buf_puts(b, *s == '\n' ? "\\n" : "\\t");
            continue;
        }
        if (*s == '"' || *s == '\\') buf_puts(b, "\\");
        buf_put(b, s, 1);
    }
    buf_puts(b, "\"");
}

/* Operands of equal precedence need parentheses on the right, and for comparisons on both sides. */
static void put_operator(Buf *b, const Expr *e, bool tight) {
    const struct OperatorInfo *op = &operators[e->op];
    bool compares = e->op >= X_LT && e->op <= X_NE;
    if (e->kind == E_UNARY) {
        buf_puts(b, e->op == X_NOT ? "not " : "-");
        put_expr(b, e->a, op->precedence, tight);
        return;
    }
    bool spaced = !tight || (e->op != X_MUL && e->op != X_DIV);
    put_expr(b, e->a, op->precedence + compares, tight);
    buf_printf(b, spaced ? " %s " : "%s", op->text);
    put_expr(b, e->b, op->precedence + 1, tight);
}

static void put_expr(Buf *b, const Expr *e, int outer, bool tight) {
    bool infix = e->kind == E_UNARY || e->kind == E_BINARY;
    bool parens = infix && operators[e->op].precedence < outer;
    if (parens) buf_puts(b, "(");
    switch (e->kind) {
    case E_NUMBER: buf_puts(b, e->number.text); break;
    case E_STRING: put_string(b, e->name); break;
    case E_NAME: buf_puts(b, e->name); break;
    case E_LIST:
        buf_puts(b, "[");
        put_args(b, e->args.head, true);
        buf_puts(b, "]");
        break;
    case E_UNARY:
    case E_BINARY: put_operator(b, e, tight); break;
    case E_CALL:
        buf_printf(b, "%s(", e->name);
        put_args(b, e->args.head, false);
        buf_puts(b, ")");
        if (e->as) buf_printf(b, " as %s", e->as);
        break;
    case E_INDEX:
        put_expr(b, e->a, X_COUNT, tight);
        buf_puts(b, "[");
        put_slices(b, e->slices.head);
        buf_puts(b, "]");
        break;
    }
    if (parens) buf_puts(b, ")");
}

/* ---- statements ---- */

static void put_names(Buf *b, const Name *n) {
    for (; n; n = n->next) buf_printf(b, "%s%s", n->name, n->next ? ", " : "");
}

static void put_splits(Buf *b, const Split *s) {
    if (!s) return;
    buf_puts(b, " split(");
    for (; s; s = s->next) buf_printf(b, "%s: %s%s", s->dim, s->axis, s->next ? ", " : "");
    buf_puts(b, ")");
}

static void put_stmt(Printer *p, const Stmt *s);

/* Closes the line with '{', prints the statements and leaves '}' on the line being written. */
static void put_block(Printer *p, const Block *b) {
    buf_puts(&p->now, "{");
    if (!b->n && (!p->pending || p->pending->line >= b->last_line)) {
        buf_puts(&p->now, "}");
        p->source_line = b->last_line;
        return;
    }
    finish(p, b->first_line);
    p->indent += INDENT;
    for (const Stmt *s = b->head; s; s = s->next) put_stmt(p, s);
    comments_before(p, b->last_line);
    p->indent -= INDENT;
    p->source_line = b->last_line;
    buf_puts(&p->now, "}");
}

static void put_if(Printer *p, const Stmt *s) {
    buf_puts(&p->now, "if ");
    put_expr(&p->now, s->value, 0, false);
    buf_puts(&p->now, " ");
    put_block(p, &s->body);
    bool chain = s->other.n && !s->other.last_line; /* else if */
    if (!chain && !s->other.last_line) return;
    buf_puts(&p->now, " else ");
    if (chain)
        put_if(p, s->other.head);
    else
        put_block(p, &s->other);
}

static void put_declaration(Buf *b, const Stmt *s) {
    buf_puts(b, s->kind == S_PARAM ? "param " : "state ");
    put_names(b, s->names.head);
    if (s->shape) {
        buf_puts(b, ": ");
        put_expr(b, s->shape, 0, false);
    }
    buf_puts(b, " = ");
    put_expr(b, s->value, 0, false);
    put_splits(b, s->splits.head);
    if (s->replicate) buf_puts(b, " replicate");
}

static void put_annotation(Printer *p, const Stmt *s) {
    buf_puts(&p->now, block_names[s->block]);
    if (s->value) {
        buf_puts(&p->now, "(");
        put_expr(&p->now, s->value, 0, false);
        buf_puts(&p->now, ")");
    }
    buf_printf(&p->now, "%s%s ", s->name ? " " : "", s->name ? s->name : "");
    put_block(p, &s->body);
}

/* "repeat f(x) as b" would give the name to the call, so such counts go into parentheses. */
static void put_repeat(Printer *p, const Stmt *s) {
    buf_puts(&p->now, "repeat ");
    put_expr(&p->now, s->value, 0, false);
    buf_printf(&p->now, "%s as %s ", s->share ? " share" : "", s->name);
    put_block(p, &s->body);
}

/* The last line of what is printed before the first '{', for comments within it. */
static uint32_t head_line(const Stmt *s) {
    return s->body.first_line ? s->body.first_line : s->last_line;
}

static void put_stmt(Printer *p, const Stmt *s) {
    begin(p, s->loc.line, head_line(s));
    Buf *b = &p->now;
    switch (s->kind) {
    case S_ASSIGN:
        put_names(b, s->names.head);
        buf_puts(b, " = ");
        put_expr(b, s->value, 0, false);
        break;
    case S_PARAM:
    case S_STATE: put_declaration(b, s); break;
    case S_REPEAT: put_repeat(p, s); break;
    case S_IF: put_if(p, s); break;
    case S_AUX:
        buf_puts(b, "aux ");
        put_expr(b, s->value, 0, false);
        break;
    case S_RETURN:
        buf_puts(b, "return ");
        put_args(b, s->args.head, false);
        break;
    case S_BLOCK: put_annotation(p, s); break;
    }
    finish(p, s->last_line);
}

/* ---- items ---- */

static void put_params(Buf *b, const Param *q) {
    for (; q; q = q->next) {
        buf_puts(b, q->name);
        if (q->dtype || q->shaped) buf_printf(b, ": %s", q->dtype ? q->dtype : "");
        if (q->shaped) {
            buf_puts(b, q->leading ? "[..., " : "[");
            put_args(b, q->dims.head, true);
            buf_puts(b, "]");
        }
        if (q->value) {
            buf_puts(b, " = ");
            put_expr(b, q->value, 0, false);
        }
        if (q->next) buf_puts(b, ", ");
    }
}

static void put_entries(Printer *p, const EntryList *l, bool assign) {
    buf_puts(&p->now, "{");
    finish(p, l->first_line);
    p->indent += INDENT;
    size_t width = 0;
    for (const Entry *e = l->head; e; e = e->next) width = MAX(width, strlen(e->key));
    for (const Entry *e = l->head; e; e = e->next) {
        begin(p, e->loc.line, e->last_line);
        buf_printf(&p->now, "%-*s%s", (int)width + 1, e->key, assign ? "= " : "");
        put_args(&p->now, e->args.head, false);
        finish(p, e->last_line);
    }
    comments_before(p, l->last_line);
    p->indent -= INDENT;
    p->source_line = l->last_line;
    buf_puts(&p->now, "}");
}

static void put_definition(Printer *p, const Item *i) {
    const char *word = i->kind == I_LAYER ? "layer" : i->kind == I_MODEL ? "model" : "optimizer";
    buf_printf(&p->now, "%s %s(", word, i->name);
    put_params(&p->now, i->params.head);
    buf_puts(&p->now, ") ");
    put_block(p, &i->body);
}

static uint32_t item_head_line(const Item *i) {
    if (i->body.first_line) return i->body.first_line;
    return i->entries.first_line ? i->entries.first_line : i->last_line;
}

static void put_item(Printer *p, const Item *i) {
    begin(p, i->loc.line, item_head_line(i));
    switch (i->kind) {
    case I_USE:
        buf_puts(&p->now, "use ");
        put_string(&p->now, i->name);
        break;
    case I_CONFIG:
        buf_puts(&p->now, "config ");
        put_args(&p->now, i->configs.head, false);
        break;
    case I_LAYER:
    case I_OPTIMIZER:
    case I_MODEL: put_definition(p, i); break;
    case I_TRAIN:
        buf_printf(&p->now, "train %s ", i->name);
        put_entries(p, &i->entries, true);
        break;
    case I_PLACE:
        buf_puts(&p->now, "place ");
        put_entries(p, &i->entries, false);
        break;
    }
    finish(p, i->last_line);
}

/* ---- breaking and aligning ---- */

static int columns(const char *s, size_t n) {
    int w = 0;
    for (size_t i = 0; i < n; i++) w += ((unsigned char)s[i] & 0xc0) != 0x80;
    return w;
}

/* Where to break s[from…]: behind the last comma inside brackets that fits `room`, or the first one
 * if none fits; n if there is none. `depth` is that at `from`. */
static size_t break_point(const char *s, size_t from, size_t n, int room, int depth) {
    size_t best = n;
    bool quoted = false;
    for (size_t i = from; i < n; i++) {
        if (quoted && s[i] == '\\') {
            i++;
            continue;
        }
        if (s[i] == '"') quoted = !quoted;
        if (quoted) continue;
        depth += (s[i] == '(' || s[i] == '[') - (s[i] == ')' || s[i] == ']');
        if (s[i] != ',' || depth < 1) continue;
        bool fits = columns(s + from, i + 1 - from) <= room;
        if (!fits && best < n) return best;
        best = i + 1;
        if (!fits) return best;
    }
    return best;
}

static int bracket_depth(const char *s, size_t n) {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted && s[i] == '\\')
            i++;
        else if (s[i] == '"')
            quoted = !quoted;
        else if (!quoted)
            depth += (s[i] == '(' || s[i] == '[') - (s[i] == ')' || s[i] == ']');
    }
    return depth;
}

/* Writes one collected line, broken if it is too long. Returns the columns of its last piece. */
static int put_broken(Buf *out, const Line *l) {
    const char *s = l->text.p ? l->text.p : "";
    size_t n = l->text.n, from = 0;
    int indent = l->indent, depth = 0;
    while (*s != '#' && indent + columns(s + from, n - from) > WIDTH) {
        size_t cut = break_point(s, from, n, WIDTH - indent, depth);
        if (cut == n) break;
        buf_printf(out, "%*s", indent, "");
        buf_put(out, s + from, cut - from);
        buf_puts(out, "\n");
        depth += bracket_depth(s + from, cut - from);
        for (from = cut; s[from] == ' ';) from++;
        indent = l->indent + INDENT;
    }
    if (n) buf_printf(out, "%*s", indent, "");
    buf_put(out, s + from, n - from);
    return indent + columns(s + from, n - from);
}

/* The column of the comments of the run of commented lines that starts at line i. */
static int comment_column(const Printer *p, uint32_t i) {
    int width = 0;
    for (; i < p->lines.n && p->lines.p[i].comment; i++) {
        Buf scratch = {0};
        width = MAX(width, put_broken(&scratch, &p->lines.p[i]));
        buf_free(&scratch);
    }
    return width + 2;
}

static void put_lines(Printer *p, Buf *out) {
    int column = 0;
    for (uint32_t i = 0; i < p->lines.n; i++) {
        const Line *l = &p->lines.p[i];
        int width = put_broken(out, l);
        if (l->comment) {
            if (!column) column = comment_column(p, i);
            buf_printf(out, "%*s", column - width, "");
            buf_puts(out, l->comment);
        } else {
            column = 0;
        }
        buf_puts(out, "\n");
    }
}

void frontend_format(const File *f, Buf *out) {
    Printer p = {.pending = f->comments.head};
    for (const Item *i = f->items.head; i; i = i->next) put_item(&p, i);
    comments_before(&p, UINT32_MAX);
    put_lines(&p, out);
    for (uint32_t i = 0; i < p.lines.n; i++) buf_free(&p.lines.p[i].text);
    vec_free(&p.lines);
    buf_free(&p.now);
}
