/* model_json.h - the JSON of model files, whose numbers have no limit.
 *
 * Hugging Face writes "no limit" as int(1e30), and the parser takes integers of 64 bits
 * only. In a model's files an integer that does not fit becomes a real; a request is read by
 * json_parse, which refuses it. */
#ifndef FATHOM_BASE_MODEL_JSON_H
#define FATHOM_BASE_MODEL_JSON_H

#include "base/json.h"

/* json_parse, with integers beyond 64 bits as reals (those beyond a double as 1e308). */
int model_json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
                     const char *what, err *e) WARN_UNUSED;

#endif
