/* tokenizer.c - four threads share one tokenizer and must all get the same ids. */
#include "text/tokenizer.h"
#include "base/file.h"
#include "base/json.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 20 };

typedef struct {
    const tokenizer *tok;
    const buf *text;
    uint64_t sum;
    bool failed;
} encode_job;

static void *encode(void *ud) {
    encode_job *job = ud;
    for (int round = 0; round < ROUNDS; round++) {
        token_ids ids = {0};
        err e = {0};
        uint64_t sum = 0;
        size_t n = job->text->len / (size_t)(round + 1);
        if (tokenizer_encode(job->tok, job->text->data, n, true, SIZE_MAX, &ids, &e) != 0)
            job->failed = true;
        for (size_t i = 0; i < ids.n; i++)
            sum = sum * 31 + ids.data[i];
        job->sum = job->sum * 31 + sum;
        token_ids_deinit(&ids);
    }
    return NULL;
}

int main(void) {
    tokenizer *tok = NULL;
    buf text = {0};
    err e = {0};
    json_setup();
    if (tokenizer_open(&tok, "models/demo", 2048, &e) != 0 ||
        file_read(&text, "models/demo/held_out.txt", 1 << 20, &e) != 0) {
        return fprintf(stderr, "%s\n", e.msg), 1;
    }
    pthread_t threads[THREADS];
    encode_job jobs[THREADS];
    bool same = true;
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (encode_job){.tok = tok, .text = &text};
        if (pthread_create(&threads[i], NULL, encode, &jobs[i]) != 0) return 1;
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        same = same && !jobs[i].failed && jobs[i].sum == jobs[0].sum;
    }
    printf("tokenizer: %s\n", same ? "ok" : "the threads disagree");
    buf_deinit(&text);
    tokenizer_close(tok);
    return same ? 0 : 1;
}
