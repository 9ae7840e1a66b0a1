/* test_questions.c - which generated texts answer a question, and lists of numbers. */
#include "cli/numbers.h"
#include "cli/questions.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

TestSuite(questions, .fini = fail_on_leaks, .timeout = HANGS_S);

static answer_state judge(const char *answer, const char *text, bool ended) {
    char copy[64];
    (void)snprintf(copy, sizeof copy, "%s", answer);
    return question_judge(&(question){.answer = copy}, text, strlen(text), ended);
}

Test(questions, an_answer_is_right_where_the_text_begins_with_it_as_a_word) {
    static const struct {
        const char *answer, *text;
        answer_state open, ended; /* with more to come, and at the end */
    } rows[] = {
        {" Zoe", " Zoe.", ANSWER_RIGHT, ANSWER_RIGHT},
        {" Zoe", "Zoe", ANSWER_OPEN, ANSWER_RIGHT},
        {"Zoe", "\n  Zoe and", ANSWER_RIGHT, ANSWER_RIGHT},
        {"Zoe\n", "Zoe.", ANSWER_RIGHT, ANSWER_RIGHT},
        {" Zoe", " Zo", ANSWER_OPEN, ANSWER_WRONG},
        {" Zoe", "", ANSWER_OPEN, ANSWER_WRONG},
        {" Zoe", " Zoey", ANSWER_WRONG, ANSWER_WRONG},
        {" Zoe", " Kim. Zoe", ANSWER_WRONG, ANSWER_WRONG},
        {"12", "123", ANSWER_WRONG, ANSWER_WRONG},
        {"12", " 12 apples", ANSWER_RIGHT, ANSWER_RIGHT},
        {"New York", "New York.", ANSWER_RIGHT, ANSWER_RIGHT},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_expect_eq(judge(rows[i].answer, rows[i].text, false), rows[i].open, "'%s' to '%s'",
                     rows[i].text, rows[i].answer);
        cr_expect_eq(judge(rows[i].answer, rows[i].text, true), rows[i].ended, "'%s' to '%s', end",
                     rows[i].text, rows[i].answer);
    }
}

Test(questions, a_list_of_numbers_has_commas_between_numbers_in_range) {
    uint32_t out[3];
    size_t n;
    err e = {0};
    cr_assert_eq(numbers_read("--n", "1,16,4", 16, out, 3, &n, &e), 0);
    cr_assert(n == 3 && out[0] == 1 && out[1] == 16 && out[2] == 4);
    static const char *const wrong[] = {
        "",   "0",  "17", "1,", ",1",      "1,,2", "1 2",
        "-1", "+1", " 1", "x",  "1,2,3,4", "1.5",  "99999999999999999999"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        e = (err){0};
        cr_expect_neq(numbers_read("--n", wrong[i], 16, out, 3, &n, &e), 0, "'%s'", wrong[i]);
        cr_expect(e.code == ERR_USAGE && strstr(e.msg, "--n") && strstr(e.msg, "from 1 to 16"),
                  "'%s': %s", wrong[i], e.msg);
    }
}
