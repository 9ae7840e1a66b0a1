/* forced.c - how much of an answer its schema forces, and how much of that is foreseen: answers cut
 * into tokens by the tokenizer itself, as a trained model mostly cuts them, are held against the
 * tokens that the constraint expects. Built and run by bench/tools/grammar/run.sh; figures in
 * bench/reports/speculation.md.
 *
 * forced [NAME DIR SIZE]...   the first SIZE entries of the tokenizer.json in DIR; its last entry
 *                             ends an answer */
#include "api/grammar/constrain_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT "{\"type\":\"string\"}"
#define INT "{\"type\":\"integer\"}"

typedef struct {
    const char *name, *schema, *answer;
} sample;

static const sample samples[] = {
    {"person, 4 short fields",
     "{\"type\":\"object\",\"properties\":{\"name\":" TEXT ",\"age\":" INT ",\"city\":" TEXT
     ",\"married\":{\"type\":\"boolean\"}},\"required\":[\"name\",\"age\",\"city\",\"married\"]}",
     "{\"name\":\"Ada Lovelace\",\"age\":36,\"city\":\"London\",\"married\":true}"},
    {"list of 3 records",
     "{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\",\"items\":{\"type\":"
     "\"object\",\"properties\":{\"id\":" INT ",\"title\":" TEXT ",\"price\":{\"type\":\"number\"},"
     "\"currency\":{\"const\":\"EUR\"}},\"required\":[\"id\",\"title\",\"price\",\"currency\"]}}},"
     "\"required\":[\"items\"]}",
     "{\"items\":[{\"id\":1,\"title\":\"Garden chair\",\"price\":49.9,\"currency\":\"EUR\"},"
     "{\"id\":2,\"title\":\"Lamp with a green shade\",\"price\":19.5,\"currency\":\"EUR\"},"
     "{\"id\":3,\"title\":\"Shelf\",\"price\":120,\"currency\":\"EUR\"}]}"},
    {"call of a function",
     "{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"get_current_weather\"},"
     "\"arguments\":{\"type\":\"object\",\"properties\":{\"location\":" TEXT
     ",\"unit\":{\"enum\":[\"celsius\",\"fahrenheit\"]}},\"required\":[\"location\",\"unit\"]}},"
     "\"required\":[\"name\",\"arguments\"]}",
     "{\"name\":\"get_current_weather\",\"arguments\":{\"location\":\"San Francisco, CA\",\"unit\":"
     "\"celsius\"}}"},
    {"8 fields with long names",
     "{\"type\":\"object\",\"properties\":{\"invoice_number\":" TEXT ",\"customer_full_name\":" TEXT
     ",\"shipping_address_line_1\":" TEXT ",\"total_amount_before_tax\":{\"type\":\"number\"},"
     "\"tax_rate_percentage\":" INT ",\"payment_due_in_days\":" INT
     ",\"is_recurring_customer\":{\"type\":\"boolean\"},\"preferred_contact_channel\":{\"enum\":["
     "\"email\",\"phone\",\"post\"]}},\"required\":[\"invoice_number\",\"customer_full_name\","
     "\"shipping_address_line_1\",\"total_amount_before_tax\",\"tax_rate_percentage\","
     "\"payment_due_in_days\",\"is_recurring_customer\",\"preferred_contact_channel\"]}",
     "{\"invoice_number\":\"A-10277\",\"customer_full_name\":\"Grace Hopper\","
     "\"shipping_address_line_1\":\"12 Harbour Street\",\"total_amount_before_tax\":1249.5,"
     "\"tax_rate_percentage\":19,\"payment_due_in_days\":30,\"is_recurring_customer\":false,"
     "\"preferred_contact_channel\":\"email\"}"},
};

typedef struct {
    const tokenizer *tok;
    api__vocab *vocab;
    uint32_t stop;
} words;

typedef struct {
    uint32_t tokens, passes, told, right;
} counts;

static int fail(const char *what) {
    fprintf(stderr, "forced: %s\n", what);
    return -1;
}

/* A pass verifies all expected tokens, and gives one more. */
static int count(api__constraint *constr, const token_ids *ids, counts *sum) {
    for (size_t i = 0; i < ids->n;) {
        const uint32_t *expected;
        if (api__constraint_make(constr) != ERR_NONE) return fail("a mask is too costly");
        sum->passes++;
        uint32_t n = api__constraint_expected(constr, &expected), right = 0;
        sum->told += n;
        while (right < n && i + right < ids->n && expected[right] == ids->data[i + right])
            right++;
        sum->right += right;
        for (uint32_t k = 0; k < right + 1 && i < ids->n; k++, i++) {
            if (!api__constraint_take(constr, ids->data[i])) return fail("a token is refused");
        }
    }
    sum->tokens += (uint32_t)ids->n;
    return 0;
}

static int one(const words *all, const sample *from, size_t flags, counts *sum) {
    json_t *schema = json_loads(from->schema, 0, NULL), *answer = json_loads(from->answer, 0, NULL);
    char *text = json_dumps(answer, flags);
    api__grammar *grammar = NULL;
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    token_ids ids = {0};
    err e = {0};
    int rc = -1;
    if (api__grammar_compile(&grammar, schema, true, "schema", &e) == 0 &&
        tokenizer_encode(all->tok, text, strlen(text), false, SIZE_MAX, &ids, &e) == 0 &&
        api__workspace_create(&work, grammar, all->vocab, &all->stop, 1, &e) == 0 &&
        api__constraint_create(&constr, work, &e) == 0)
        rc = count(constr, &ids, sum);
    if (e.msg[0]) fail(e.msg);
    token_ids_deinit(&ids);
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    free(text);
    json_decref(schema);
    json_decref(answer);
    return rc;
}

static int vocabulary(const char *name, const char *dir, uint32_t size) {
    static const struct {
        const char *name;
        size_t flags;
    } styles[] = {{"spaced", 0}, {"compact", JSON_COMPACT}, {"lines", JSON_INDENT(2)}};
    tokenizer *tok = NULL;
    words all = {.stop = size - 1};
    err e = {0};
    if (tokenizer_open(&tok, dir, size, &e) != 0 || api__vocab_open(&all.vocab, tok, size, &e) != 0)
        return fail(e.msg);
    all.tok = tok;
    int rc = 0;
    for (size_t i = 0; i < sizeof samples / sizeof *samples && rc == 0; i++) {
        printf("| %s | %s |", name, samples[i].name);
        for (size_t k = 0; k < sizeof styles / sizeof *styles && rc == 0; k++) {
            counts sum = {0};
            rc = one(&all, &samples[i], styles[k].flags, &sum);
            printf(" %u in %u passes (%.1f), %u of %u |", sum.tokens, sum.passes,
                   (double)sum.tokens / sum.passes, sum.right, sum.told);
        }
        printf("\n");
    }
    api__vocab_close(all.vocab);
    tokenizer_close(tok);
    return rc;
}

int main(int argc, char **argv) {
    printf("| vocabulary | answer | spaced: tokens, expected ones right | compact | lines |\n"
           "|---|---|---|---|---|\n");
    for (int i = 1; i + 2 < argc; i += 3) {
        if (vocabulary(argv[i], argv[i + 1], (uint32_t)strtoul(argv[i + 2], NULL, 10)) != 0)
            return 1;
    }
    return 0;
}
