/* main_config.h: the configs of a model's text. Apart from what sees the IR: the tree of a text and
 * the IR share names. */
#ifndef M6C_MAIN_CONFIG_H
#define M6C_MAIN_CONFIG_H

#include "frontend/main.h"

/* The value of a config: what `set` ("NAME=VALUE" …) says, or else the text of the model. False
 * when there is none, or it is not a whole number written out. */
bool config_whole(const char *path, const TextList *set, const char *name, int64_t *value);
/* The configs that are whole numbers, in order, joined by ", ". */
const char *config_names(Arena *a, const char *path);

#endif
