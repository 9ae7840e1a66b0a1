/* model_json.h - the JSON of model files, with integers of any size.
 *
 * Hugging Face writes "no limit" as int(1e30), but the parser takes integers of 64 bits only. In a
 * model's files a larger integer becomes a real. In a request json_parse refuses it. */
#ifndef FATHOM_BASE_MODEL_JSON_H
#define FATHOM_BASE_MODEL_JSON_H

#include "base/json.h"

/* json_parse, with integers beyond 64 bits as reals (beyond the range of a double: 1e308). */
int model_json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
                     const char *what, err *e) WARN_UNUSED;

#endif
