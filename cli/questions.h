/* questions.h - prompts with known answers, from a file with a JSON object a line:
 *
 *   {"prompt": "Ann's friend is", "answer": " Kim", "steps": 1}
 *
 * `answer` and `steps` may be absent. `steps` tells how hard the prompt is, as a whole number, and
 * may be called "hops". Other members are not read. */
#ifndef FATHOM_QUESTIONS_H
#define FATHOM_QUESTIONS_H

#include "runtime/runtime.h"

typedef struct {
    char *answer;         /* NULL: not given */
    uint32_t *ids, n_ids; /* the prompt, as the server would read it */
    uint32_t n_answer;    /* tokens of the answer */
    uint32_t steps;       /* 0: not given */
    uint32_t line;        /* of the file */
} question;

typedef struct {
    question *rows;
    size_t n, cap, n_answers;       /* the last: those with an answer */
    uint32_t *stop_ids, n_stop_ids; /* end tokens of the model */
    uint32_t longest;               /* tokens of the longest prompt */
} questions;

/* Reads and encodes all prompts of the file; `option` named it. ERR_USAGE names the line at fault.
 */
int questions_read(questions *out, const runtime *rt, const char *option, const char *path,
                   err *e) WARN_UNUSED;
void questions_deinit(questions *all);

typedef enum { ANSWER_OPEN, ANSWER_RIGHT, ANSWER_WRONG } answer_state;
/* A generated text is right if, after white space, it begins with the answer and the next byte is
 * no letter or digit. OPEN: more text is needed; never with `ended`. */
answer_state question_judge(const question *asked, const char *text, size_t n, bool ended);
/* The same of generated tokens. */
int question_judge_tokens(const question *asked, const tokenizer *tok, const uint32_t *ids,
                          size_t n, bool ended, answer_state *out, err *e) WARN_UNUSED;

#endif
