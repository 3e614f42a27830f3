/* tokenizer.h: text to token numbers by a BERT vocabulary file.
 *
 * The file has one token a line, its number is the line's, from 0. "##x" continues a word. [PAD],
 * [UNK], [CLS] and [SEP] must be there, [MASK] may be. Text is cut at white space; punctuation and
 * CJK characters stand alone; what is left is cut into the longest tokens known, from the left
 * (WordPiece, as in BERT). A vocabulary without any upper-case letter means uncased text: it is
 * then lower-cased and its accents are dropped. */
#ifndef M6C_TOKENIZER_H
#define M6C_TOKENIZER_H

#include "ir/base.h"

typedef enum { TOK_PAD, TOK_UNK, TOK_CLS, TOK_SEP, TOK_MASK, TOK_SPECIALS } SpecialToken;

typedef struct Tokenizer Tokenizer;

/* Errors (EXIT_INPUT) name the file and the line. */
Status tokenizer_open(const char *path, Tokenizer **out);
/* The same from memory; `name` is used in messages. */
Status tokenizer_parse(const char *name, const char *text, size_t n, Tokenizer **out);
void tokenizer_free(Tokenizer *t); /* NULL is fine */

int tokenizer_size(const Tokenizer *t);
int tokenizer_special(const Tokenizer *t, SpecialToken s); /* -1: no [MASK] in the vocabulary */
const char *tokenizer_token(const Tokenizer *t, int id);   /* NULL outside the vocabulary */

/* Writes at most `capacity` numbers to id and sets *n to how many; the rest of the text is cut off.
 * No specials are added. `where` names the text in messages. */
Status tokenizer_encode(const Tokenizer *t, const char *where, const char *text, int32_t *id,
                        int capacity, int *n);
/* Appends the text of the tokens: no specials, no space beside CJK characters and punctuation. */
void tokenizer_decode(const Tokenizer *t, const int32_t *id, int n, Buf *out);

/* Calls word() for each word that WordPiece would cut: for making vocabularies. `uncased` as
 * above. */
Status tokenizer_words(const char *where, const char *text, bool uncased,
                       void (*word)(void *user, const char *word, size_t n), void *user);
/* Bytes of the first character of valid UTF-8 text. */
size_t utf8_length(const char *s);

#endif
