/* pattern.c - the regular expressions of a tokenizer.json, compiled.
 *
 * They mean what they mean to the library that Hugging Face's tokenizers use: Oniguruma 6.9.10
 * (the crate onig 6.5.3), its own syntax, no options, UTF-8, Unicode 16. Fathom runs them on PCRE2.
 * A pattern is read into a tree, and the tree is written for PCRE2; nothing is passed on as it
 * stands. What has no equivalent is refused by name. Classes are evaluated here, in Unicode 16,
 * so PCRE2's own Unicode (14 in release 10.42) never shows.
 *
 *   written                   to Oniguruma                            becomes
 *   \s \d \h \w, in capitals  White_Space, Nd, hexadecimal digits,    a class
 *                             Alphabetic + M + Nd + Pc, and alone
 *                             (not in a class) also ² ³ ¹ ¼ ½ ¾
 *   \p{X} \p{^X} \P{X}        category, script, block (In_X), binary  a class
 *                             or POSIX name, however spelt; \pL is pL
 *   [a-c[^d]&&\w] [[:alpha:]] union, complement, intersection         one class, evaluated
 *   .  \N  \O                 all but \n (with (?m) all), the first,  . or a class
 *                             the second
 *   ^ $                       at every line                           (?m:^) (?m:$), newline LF
 *   \A \Z \z \G \K            text, search, what is kept              the same
 *   \b \B                     between \w and not, as \w alone is      look-arounds
 *   \R                        \r\n, else one of seven, not undone     an atomic group
 *   a*+ a++ a?+               possessive                              the same
 *   a{1,3}+  a{2}?            (?:a{1,3})+  (?:a{2})?                  so
 *   a{3,1}                    a{1,3}, possessive                      a{1,3}+
 *   a{,3}  a{,}  a{x          a{0,3}, and ordinary braces             so
 *   (?:) (?=) (?!) (?<=) (?<!) (?>) (?<n>) (?'n') (?(1)|) (?#)        the same, numbered
 *   (?imx-imx) (?imx:)        to the end of the group; m is dotall    written out
 *   (?WDSP)                   \w, \d, \s, all POSIX sets are ASCII's  written out
 *   (?i) and a letter         whatever folds alike: k is [kKK]        a class
 *   (?i) and ss, ß, [ß]       also what several fold to: ss is ß      alternatives
 *   \1 \k<n> \k<-1>           a group's text, if the group has ended  \g{1}
 *   \g<n>                     a group again, which calls nothing      (?1)
 *   \xHH \x{H} \uHHHH \o{O} \OOO \cX \C-X \M-X \a \e \f \n \r \t \v   the character
 *
 * Known there and refused here: \X \y \Y (?y{}) (?C) (?I) (?L), the absent operator (?~), callouts
 * (?{ and (*, conditions that are no group, levels in references, references to open groups or to
 * doubled names, back-references whatever the case or beside calls, calls in called groups, \K in
 * a look-around, alternatives of varying width in a look-behind, the property InCB, lists of code
 * points \x{61 62}, surrogates and what lies above U+10FFFF outside a class, bytes that are no
 * UTF-8, repeats over 65535, a range that ends in a class, more than 100 groups, classes or
 * quantifiers inside each other; and where the library itself errs: (?m:.*) behind what matches no
 * text, a counted repeat of what may match none, and negated classes in classes in two odd
 * cases. */
#include "text/pattern_internal.h"

#include "text/pattern_tree_internal.h"

/* In *options, what else PCRE2 must be told. */
static int translate(text__pattern *into, const char *source, size_t n, buf *out, uint32_t *options,
                     const char *label, err *e) {
    pattern pat = {.text = source, .len = n, .label = label, .e = e};
    node *root;
    arena_init(&pat.tree, PATTERN_TREE_BYTES);
    out->max = PATTERN_OUT_BYTES;
    int rc = pattern_parse(&pat, &root);
    if (rc == 0) rc = pattern_emit(&pat, root, out);
    into->in_windows = !pat.search_start;
    *options = PCRE2_DOTALL;
    /* PCRE2 10.42 misreads atomic and possessive groups where it looks for the first characters
     * of a match (JIT: (?>a+?)ab finds nothing in aaab, (?>x|.*|)b finds the b of cb) and where it
     * asks what may follow a repeat ([a-z]{0,3}(?:b)?+[^c] finds nothing in x). */
    if (pat.atomic) *options |= PCRE2_NO_START_OPTIMIZE | PCRE2_NO_AUTO_POSSESS;
    arena_deinit(&pat.tree);
    return rc;
}

int text__pattern_compile(text__pattern *compiled, const char *source, size_t n, bool literal,
                          const char *label, err *e) {
    buf out = {0};
    uint32_t options = PCRE2_LITERAL;
    int rc = -1, code = 0;
    size_t at = 0;
    *compiled = (text__pattern){.in_windows = true};
    if (n > PATTERN_MAX)
        return err_set(e, ERR_BAD_FILE, NULL, "%s: over %d bytes", label, PATTERN_MAX);
    if (!literal && translate(compiled, source, n, &out, &options, label, e) != 0) goto end;
    options |= PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT;
    PCRE2_SPTR text = (PCRE2_SPTR)(literal ? source : out.data);
    compiled->code = pcre2_compile(text, literal ? n : out.len, options, &code, &at, NULL);
    if (compiled->code == NULL) {
        char reason[120] = "";
        (void)pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        err_code kind = code == PCRE2_ERROR_HEAP_FAILED ? ERR_NO_MEMORY : ERR_BAD_FILE;
        err_set(e, kind, NULL, "%s: %s", label, reason);
        goto end;
    }
    compiled->jit =
        pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE) == 0; /* refused on some systems */
    rc = 0;
end:
    buf_deinit(&out);
    return rc;
}

void text__pattern_deinit(text__pattern *compiled) {
    pcre2_code_free(compiled->code);
    *compiled = (text__pattern){0};
}
