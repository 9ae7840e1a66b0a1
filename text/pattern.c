/* pattern.c - compiles the regular expressions of a tokenizer.json.
 *
 * A pattern has the meaning of Oniguruma 6.9.10 (the crate onig 6.5.3), the library of Hugging
 * Face's tokenizers: its own syntax, no options, UTF-8, Unicode 16. Fathom runs patterns on PCRE2.
 * A pattern is parsed into a tree and the tree is written for PCRE2; no part is copied as it is. A
 * construct without an equivalent is refused by name. Classes are evaluated here, in Unicode 16, so
 * PCRE2's own Unicode version (14 in release 10.42) does not matter.
 *
 *   written                   to Oniguruma                            becomes
 *   \s \d \h \w, in capitals  White_Space, Nd, hexadecimal digits,    a class
 *                             Alphabetic + M + Nd + Pc, and alone
 *                             (not in a class) also ² ³ ¹ ¼ ½ ¾
 *   \p{X} \p{^X} \P{X}        category, script, block (In_X), binary  a class
 *                             or POSIX name in any spelling; \pL is pL
 *   [a-c[^d]&&\w] [[:alpha:]] union, complement, intersection         one class, evaluated
 *   .  \N  \O                 . and \N: all but \n; \O, and . with    . or a class
 *                             (?m): all
 *   ^ $                       at every line                           (?m:^) (?m:$), newline LF
 *   \A \Z \z \G \K            bounds of text and search, new start    the same
 *   \b \B                     between \w and not, as \w alone is      look-arounds
 *   \R                        \r\n, else one of seven; atomic         an atomic group
 *   a*+ a++ a?+               possessive                              the same
 *   a{1,3}+  a{2}?            (?:a{1,3})+  (?:a{2})?                  the same
 *   a{3,1}                    a{1,3}, possessive                      a{1,3}+
 *   a{,3}  a{,}  a{x          a{0,3}, and ordinary braces             the same
 *   (?:) (?=) (?!) (?<=) (?<!) (?>) (?<n>) (?'n') (?(1)|) (?#)        the same, numbered
 *   (?imx-imx) (?imx:)        to the end of the group; m is dotall    written out
 *   (?WDSP)                   \w, \d, \s, all POSIX sets in ASCII     written out
 *   (?i) and a letter         all that folds alike: k is [kK\x{212a}] a class
 *   (?i) and ss, ß, [ß]       also a letter for several: ss is ß      alternatives
 *   \1 \k<n> \k<-1>           a group's text, if the group has ended  \g{1}
 *   \g<n>                     a group again, without calls in it      (?1)
 *   \xHH \x{H} \uHHHH \o{O} \OOO \cX \C-X \M-X \a \e \f \n \r \t \v   the character
 *
 * Valid in Oniguruma and refused here:
 * - \X \y \Y (?y{}) (?C) (?I) (?L), the absent operator (?~), callouts (?{ and (*, \p{InCB};
 * - conditions other than a group, references with a level, to open groups or to doubled names,
 *   case-insensitive back-references, back-references beside calls, calls in called groups;
 * - \K in a look-around, alternatives of varying width in a look-behind;
 * - lists of code points \x{61 62}, escaped bytes that are not UTF-8, surrogates and code points
 *   above U+10FFFF outside a class;
 * - repeats over 65535, a range that ends in a class, over 100 nested groups, classes or
 *   quantifiers;
 * - patterns that Oniguruma itself gets wrong: (?m:.*) after a part that matches no text, a counted
 *   repeat of a part that may match none, and negated classes in classes in two odd cases. */
#include "text/pattern_internal.h"

#include "text/pattern_tree_internal.h"

/* *options becomes the options for PCRE2. */
static int translate(text__pattern *compiled, const char *source, size_t n, buf *out,
                     uint32_t *options, const char *label, err *e) {
    pattern pat = {.text = source, .len = n, .label = label, .e = e};
    node *root;
    arena_init(&pat.tree, PATTERN_TREE_BYTES);
    out->max = PATTERN_OUT_BYTES;
    int rc = pattern_parse(&pat, &root);
    if (rc == 0) rc = pattern_emit(&pat, root, out);
    compiled->in_windows = !pat.search_start;
    *options = PCRE2_DOTALL;
    /* PCRE2 10.42 handles atomic and possessive groups wrongly in two optimisations: the search for
     * the first characters of a match (JIT: (?>a+?)ab finds nothing in aaab, (?>x|.*|)b finds the b
     * of cb) and the check of the characters after a repeat ([a-z]{0,3}(?:b)?+[^c] finds nothing in
     * x). */
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
        return err_set(e, ERR_BAD_FILE, NULL, "%s: it is longer than %d bytes", label, PATTERN_MAX);
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
