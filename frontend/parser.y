/* parser.y: the grammar of .m6 files. Every list is left-recursive, so long inputs need no stack;
 * errors are recovered at the end of statements and items, where next_token (tokens.c) skips to. */
%define api.pure full
%define api.prefix {m6_}
%define api.location.type {Span}
%define parse.error custom
%define parse.lac full
%locations
%param {void *scanner}
%parse-param {Lexer *lx}

%code requires {
#include "frontend/syntax.h"
}

/* What flex calls the types of values and places. */
%code provides {
#define YYSTYPE M6_STYPE
#define YYLTYPE M6_LTYPE
}

%code {
#include "frontend/tree.h"
#undef yylex
#define yylex next_token
#define YYMAXDEPTH 5000
#define YYLLOC_DEFAULT(out, rhs, n)                                                                \
    ((out) = (n) ? (Span){YYRHSLOC(rhs, 1).loc, YYRHSLOC(rhs, n).last_line} : YYRHSLOC(rhs, 0))
static void m6_error(Span *span, void *scanner, Lexer *lx, const char *text);
#define A (lx->arena)
#define AT(x) ((x).loc)
}

%union {
    const char *name;
    Number number;
    Expr *expr;
    Arg *arg;
    Slice *slice;
    Name *name_node;
    Split *split;
    Param *param;
    Stmt *stmt;
    Item *item;
    Entry *entry;
    ArgList args;
    SliceList slices;
    NameList names;
    SplitList splits;
    ParamList params;
    Block block;
    EntryList entries;
    int integer;
    bool flag;
}

%token END 0 "the end of the file"
%token SEP "the end of the line"
%token <number> NUMBER "a number"
%token <name> STRING "a text in quotes" NAME "a name"
%token <name> AND "'and'" AS "'as'" AUX "'aux'" CHECKPOINT "'checkpoint'" CONFIG "'config'"
%token <name> ELSE "'else'" IF "'if'" KEEP "'keep'" LAYER "'layer'" MODEL "'model'" NOT "'not'"
%token <name> OFFLOAD "'offload'" OPTIMIZER "'optimizer'" OR "'or'" PARAM "'param'" PLACE "'place'"
%token <name> REPEAT "'repeat'" REPLICATE "'replicate'" RETURN "'return'" SHARE "'share'"
%token <name> SPLIT "'split'" STAGE "'stage'" STATE "'state'" TRAIN "'train'" USE "'use'"
%token ELLIPSIS "'...'" LE "'<='" GE "'>='" EQ "'=='" NE "'!='"

%left OR
%left AND
%precedence NOT
%nonassoc '<' LE '>' GE EQ NE
%left '+' '-'
%left '*' '/'
%left '@'
%precedence NEG
%precedence CALL
%precedence AS

%type <expr> expr postfix call value_opt count_opt
%type <arg> arg config place_value dim element
%type <args> args args_opt configs place_values dims dims_opt elements elements_opt returns
%type <slice> slice
%type <slices> slices
%type <names> names
%type <split> split
%type <splits> split_list splits
%type <param> param shape
%type <params> params params_opt
%type <stmt> stmt if
%type <block> block stmts
%type <item> item
%type <entry> train_entry place_entry
%type <entries> train_entries place_entries
%type <integer> definition annotation
%type <name> as_opt name_opt word
%type <flag> share_opt replicate_opt

%%

file: items ;

items:
    %empty
  | items SEP
  | items item SEP      { list_add(&lx->file->items, $2); }
  | items error SEP     { yyerrok; }
  ;

item:
    USE STRING          { $$ = make_item(lx, I_USE, @$, $2, @2); }
  | CONFIG configs      { $$ = make_item(lx, I_CONFIG, @$, NULL, @1); $$->configs = $2; }
  | definition NAME '(' params_opt ')' block {
        $$ = make_item(lx, (ItemKind)$1, @$, $2, @2);
        $$->params = $4;
        $$->body = $6;
    }
  | TRAIN NAME '{' train_entries '}' {
        $$ = make_item(lx, I_TRAIN, @$, $2, @2);
        $$->entries = close_entries($4, @3, @5);
    }
  | PLACE '{' place_entries '}' {
        $$ = make_item(lx, I_PLACE, @$, NULL, @1);
        $$->entries = close_entries($3, @2, @4);
    }
  ;

definition:
    LAYER               { $$ = I_LAYER; }
  | OPTIMIZER           { $$ = I_OPTIMIZER; }
  | MODEL               { $$ = I_MODEL; }
  ;

configs:
    config              { $$ = (ArgList){0}; list_add(&$$, $1); }
  | configs ',' config  { $$ = $1; list_add(&$$, $3); }
  ;

config: NAME '=' expr   { $$ = make_arg(A, AT(@1), $1, $3); } ;

params_opt:
    %empty              { $$ = (ParamList){0}; }
  | params
  ;

params:
    param               { $$ = (ParamList){0}; list_add(&$$, $1); }
  | params ',' param    { $$ = $1; list_add(&$$, $3); }
  ;

param:
    NAME value_opt      { $$ = make_param(A, AT(@1), $1, NULL, $2); }
  | NAME ':' shape value_opt { $$ = make_param(A, AT(@1), $1, $3, $4); }
  ;

value_opt:
    %empty              { $$ = NULL; }
  | '=' expr            { $$ = $2; }
  ;

shape:
    NAME                { $$ = make_shape(A, $1, AT(@1), false, false, (ArgList){0}); }
  | NAME '[' dims_opt ']' { $$ = make_shape(A, $1, AT(@1), true, false, $3); }
  | '[' dims_opt ']'    { $$ = make_shape(A, NULL, AT(@1), true, false, $2); }
  | NAME '[' ELLIPSIS ',' dims ']' { $$ = make_shape(A, $1, AT(@1), true, true, $5); }
  | '[' ELLIPSIS ',' dims ']' { $$ = make_shape(A, NULL, AT(@1), true, true, $4); }
  ;

dims_opt:
    %empty              { $$ = (ArgList){0}; }
  | dims
  ;

dims:
    dim                 { $$ = (ArgList){0}; list_add(&$$, $1); }
  | dims ',' dim        { $$ = $1; list_add(&$$, $3); }
  ;

dim: expr               { $$ = make_arg(A, $1->loc, NULL, $1); } ;

block: '{' stmts '}'    { $$ = close_block($2, @1, @3); } ;

stmts:
    %empty              { $$ = (Block){0}; }
  | stmts SEP
  | stmts stmt SEP      { $$ = $1; list_add(&$$, $2); }
  | stmts error SEP     { yyerrok; }
  ;

stmt:
    names '=' expr {
        $$ = make_stmt(A, S_ASSIGN, @$);
        $$->names = $1;
        $$->value = $3;
    }
  | PARAM names ':' expr '=' expr splits replicate_opt {
        $$ = make_stmt(A, S_PARAM, @$);
        $$->names = $2;
        $$->shape = $4;
        $$->value = $6;
        $$->splits = $7;
        $$->replicate = $8;
    }
  | STATE names '=' expr {
        $$ = make_stmt(A, S_STATE, @$);
        $$->names = $2;
        $$->value = $4;
    }
  | STATE names ':' expr '=' expr {
        $$ = make_stmt(A, S_STATE, @$);
        $$->names = $2;
        $$->shape = $4;
        $$->value = $6;
    }
  | REPEAT expr share_opt as_opt block {
        $$ = make_stmt(A, S_REPEAT, @$);
        $$->value = $2;
        $$->share = $3;
        $$->name = $4 ? $4 : take_name($2);
        $$->body = $5;
        if (!$$->name) syntax_complain(lx, AT(@1), "a 'repeat' needs a name: repeat N as name { … }");
    }
  | if
  | AUX expr            { $$ = make_stmt(A, S_AUX, @$); $$->value = $2; }
  | RETURN returns      { $$ = make_stmt(A, S_RETURN, @$); $$->args = $2; }
  | annotation count_opt name_opt block {
        $$ = make_stmt(A, S_BLOCK, @$);
        $$->block = (BlockKind)$1;
        $$->value = $2;
        $$->name = $3;
        $$->body = $4;
        check_annotation(lx, $$);
    }
  ;

if:
    IF expr block       { $$ = make_stmt(A, S_IF, @$); $$->value = $2; $$->body = $3; }
  | IF expr block ELSE block {
        $$ = make_stmt(A, S_IF, @$);
        $$->value = $2;
        $$->body = $3;
        $$->other = $5;
    }
  | IF expr block ELSE if {
        $$ = make_stmt(A, S_IF, @$);
        $$->value = $2;
        $$->body = $3;
        list_add(&$$->other, $5);
    }
  ;

annotation:
    REPLICATE           { $$ = BLOCK_REPLICATE; }
  | SPLIT               { $$ = BLOCK_SPLIT; }
  | STAGE               { $$ = BLOCK_STAGE; }
  | CHECKPOINT          { $$ = BLOCK_CHECKPOINT; }
  | KEEP                { $$ = BLOCK_KEEP; }
  | OFFLOAD             { $$ = BLOCK_OFFLOAD; }
  ;

count_opt:
    %empty              { $$ = NULL; }
  | '(' expr ')'        { $$ = $2; }
  ;

name_opt:
    %empty              { $$ = NULL; }
  | NAME
  ;

share_opt:
    %empty              { $$ = false; }
  | SHARE               { $$ = true; }
  ;

as_opt:
    %empty              { $$ = NULL; }
  | AS NAME             { $$ = $2; }
  ;

replicate_opt:
    %empty              { $$ = false; }
  | REPLICATE           { $$ = true; }
  ;

splits:
    %empty              { $$ = (SplitList){0}; }
  | SPLIT '(' split_list ')' { $$ = $3; }
  ;

split_list:
    split               { $$ = (SplitList){0}; list_add(&$$, $1); }
  | split_list ',' split { $$ = $1; list_add(&$$, $3); }
  ;

split: NAME ':' NAME    { $$ = make_split(A, AT(@1), $1, $3); } ;

names:
    NAME                { $$ = (NameList){0}; list_add(&$$, make_name(A, AT(@1), $1)); }
  | names ',' NAME      { $$ = $1; list_add(&$$, make_name(A, AT(@3), $3)); }
  ;

returns:
    element             { $$ = (ArgList){0}; list_add(&$$, $1); }
  | returns ',' element { $$ = $1; list_add(&$$, $3); }
  ;

train_entries:
    %empty              { $$ = (EntryList){0}; }
  | train_entries SEP
  | train_entries train_entry SEP { $$ = $1; list_add(&$$, $2); }
  | train_entries error SEP { yyerrok; }
  ;

train_entry: word '=' expr {
        $$ = make_entry(A, @$, $1);
        list_add(&$$->args, make_arg(A, $3->loc, NULL, $3));
    } ;

place_entries:
    %empty              { $$ = (EntryList){0}; }
  | place_entries SEP
  | place_entries place_entry SEP { $$ = $1; list_add(&$$, $2); }
  | place_entries error SEP { yyerrok; }
  ;

place_entry:
    word place_values   { $$ = make_entry(A, @$, $1); $$->args = $2; }
  | word '=' place_values {
        $$ = make_entry(A, @$, $1);
        syntax_complain(lx, AT(@2), "settings of 'place' are written without '=', as in 'memory 32GB'");
    }
  ;

place_values:
    place_value         { $$ = (ArgList){0}; list_add(&$$, $1); }
  | place_values ',' place_value { $$ = $1; list_add(&$$, $3); }
  ;

place_value:
    expr                { $$ = make_arg(A, $1->loc, NULL, $1); }
  | NAME '=' expr       { $$ = make_arg(A, AT(@1), $1, $3); }
  ;

/* Names of arguments and of settings may be words that begin statements. */
word: NAME | CHECKPOINT | OFFLOAD | KEEP | REPLICATE | SPLIT | STAGE | STATE | OPTIMIZER ;

expr:
    postfix
  | expr OR expr        { $$ = make_binary(lx, X_OR, AT(@2), $1, $3); }
  | expr AND expr       { $$ = make_binary(lx, X_AND, AT(@2), $1, $3); }
  | NOT expr            { $$ = make_unary(lx, X_NOT, AT(@1), $2); }
  | expr '<' expr       { $$ = make_binary(lx, X_LT, AT(@2), $1, $3); }
  | expr LE expr        { $$ = make_binary(lx, X_LE, AT(@2), $1, $3); }
  | expr '>' expr       { $$ = make_binary(lx, X_GT, AT(@2), $1, $3); }
  | expr GE expr        { $$ = make_binary(lx, X_GE, AT(@2), $1, $3); }
  | expr EQ expr        { $$ = make_binary(lx, X_EQ, AT(@2), $1, $3); }
  | expr NE expr        { $$ = make_binary(lx, X_NE, AT(@2), $1, $3); }
  | expr '+' expr       { $$ = make_binary(lx, X_ADD, AT(@2), $1, $3); }
  | expr '-' expr       { $$ = make_binary(lx, X_SUB, AT(@2), $1, $3); }
  | expr '*' expr       { $$ = make_binary(lx, X_MUL, AT(@2), $1, $3); }
  | expr '/' expr       { $$ = make_binary(lx, X_DIV, AT(@2), $1, $3); }
  | expr '@' expr       { $$ = make_binary(lx, X_MATMUL, AT(@2), $1, $3); }
  | '-' expr %prec NEG  { $$ = make_unary(lx, X_NEG, AT(@1), $2); }
  ;

postfix:
    NUMBER              { $$ = make_expr(A, E_NUMBER, AT(@1)); $$->number = $1; }
  | STRING              { $$ = make_expr(A, E_STRING, AT(@1)); $$->name = $1; }
  | NAME                { $$ = make_expr(A, E_NAME, AT(@1)); $$->name = $1; }
  | '(' expr ')'        { $$ = $2; }
  | '[' elements_opt ']' {
        $$ = make_expr(A, E_LIST, AT(@1));
        $$->args = $2;
        check_depth(lx, $$);
    }
  | call %prec CALL
  | call AS NAME        { $$ = $1; $$->as = $3; }
  | postfix '[' slices ']' {
        $$ = make_expr(A, E_INDEX, AT(@1));
        $$->a = $1;
        $$->slices = $3;
        check_depth(lx, $$);
    }
  ;

call: NAME '(' args_opt ')' {
        $$ = make_expr(A, E_CALL, AT(@1));
        $$->name = $1;
        $$->args = $3;
        check_depth(lx, $$);
    } ;

args_opt:
    %empty              { $$ = (ArgList){0}; }
  | args
  ;

args:
    arg                 { $$ = (ArgList){0}; list_add(&$$, $1); }
  | args ',' arg        { $$ = $1; list_add(&$$, $3); }
  ;

arg:
    element
  | word '=' expr       { $$ = make_arg(A, AT(@1), $1, $3); }
  ;

elements_opt:
    %empty              { $$ = (ArgList){0}; }
  | elements
  ;

elements:
    element             { $$ = (ArgList){0}; list_add(&$$, $1); }
  | elements ',' element { $$ = $1; list_add(&$$, $3); }
  ;

element: expr           { $$ = make_arg(A, $1->loc, NULL, $1); } ;

slices:
    slice               { $$ = (SliceList){0}; list_add(&$$, $1); }
  | slices ',' slice    { $$ = $1; list_add(&$$, $3); }
  ;

slice:
    expr                { $$ = make_slice(A, AT(@1), false, $1, NULL); }
  | ':'                 { $$ = make_slice(A, AT(@1), true, NULL, NULL); }
  | expr ':'            { $$ = make_slice(A, AT(@1), true, $1, NULL); }
  | ':' expr            { $$ = make_slice(A, AT(@1), true, NULL, $2); }
  | expr ':' expr       { $$ = make_slice(A, AT(@1), true, $1, $3); }
  ;

%%

static int yyreport_syntax_error(const yypcontext_t *context, void *scanner, Lexer *lx) {
    (void)scanner;
    yysymbol_kind_t kinds[YYNTOKENS];
    const char *names[YYNTOKENS];
    int n = yypcontext_expected_tokens(context, kinds, YYNTOKENS);
    for (int i = 0; i < n; i++) names[i] = yysymbol_name(kinds[i]);
    syntax_error(lx, yypcontext_location(context)->loc, yysymbol_name(yypcontext_token(context)),
                 names, n);
    return 0;
}

/* Only reached when the parser's stack is full. */
static void m6_error(Span *span, void *scanner, Lexer *lx, const char *text) {
    (void)scanner, (void)text;
    syntax_complain(lx, span->loc, "this is nested too deeply");
}
