/* forced.c - see forced_internal.h. */
#include "api/grammar/forced_internal.h"

#include <string.h>

/* ---- blanks ---- */

enum { NO_BLANK, ONE_BLANK, LINES }; /* values of api__style.blanks */
enum { USUAL_INDENT = 2 };

void api__style_begin(api__style *style) {
    *style = (api__style){.indent = USUAL_INDENT};
    style->blanks[API__AFTER_COLON] = style->blanks[API__AFTER_COMMA] = ONE_BLANK;
}

static bool is_blank(uint8_t byte) {
    return byte == ' ' || byte == '\n' || byte == '\t';
}

static bool closes(int byte) {
    return byte == '}' || byte == ']';
}

/* Levels of indentation of a line that begins in this gap. */
static uint32_t levels_at(api__gap gap, uint32_t level) {
    return gap == API__BEFORE_CLOSE ? level - 1 : level;
}

static void learn_gap(api__style *style, api__gap gap, uint32_t blanks, uint32_t level) {
    uint8_t kind = blanks == 0 ? NO_BLANK : blanks == API__ONE_SPACE ? ONE_BLANK : LINES;
    uint32_t levels = levels_at(gap, level);
    style->blanks[gap] = kind;
    if (kind == LINES && levels > 0 && (blanks - 1) % levels == 0)
        style->indent = (uint8_t)((blanks - 1) / levels);
    if (gap != API__AFTER_OPEN) return;
    style->blanks[API__BEFORE_CLOSE] = kind;
    if (kind == LINES) style->blanks[API__AFTER_COMMA] = LINES;
}

void api__style_learn(api__style *style, const api__automaton *machine, const api__readings *now,
                      uint8_t byte) {
    uint32_t blanks, level;
    api__gap gap = api__next_gap(machine, now->top[0], &blanks, &level);
    if (gap == API__NO_GAP) return;
    if (is_blank(byte)) {
        if (blanks > 0) style->tabs = byte == '\t';
    } else if (closes(byte) == (gap == API__BEFORE_CLOSE)) { /* not of {} or before a comma */
        learn_gap(style, gap, blanks, level);
    }
}

/* The blank that the answer's style has next in this gap, or -1. */
static int next_blank(const api__style *style, api__gap gap, uint32_t blanks, uint32_t level) {
    bool lines = blanks > 0 ? blanks < API__ONE_SPACE : style->blanks[gap] == LINES;
    if (!lines) return blanks == 0 && style->blanks[gap] == ONE_BLANK ? ' ' : -1;
    if (blanks == 0) return '\n';
    return blanks <= levels_at(gap, level) * style->indent ? (style->tabs ? '\t' : ' ') : -1;
}

/* ---- text ---- */

typedef struct {
    api__automaton *machine;
    const api__style *style;
    uint64_t limit;
    api__readings now; /* behind the text */
    size_t n;
    char text[API__FORCED_BYTES];
} forced_text;

static bool is_allowed(forced_text *forced, uint8_t byte) {
    api__automaton *machine = forced->machine;
    uint32_t used = machine->used;
    api__readings next;
    api__automaton_step(machine, &forced->now, byte, &next);
    api__automaton_rewind(machine, used);
    return next.n_tops > 0;
}

/* The only byte that may come next, but for blanks in a gap; -1: there are several, or none. */
static int only_byte(forced_text *forced) {
    api__byte_set set;
    int only = -1;
    api__next_bytes(forced->machine, &forced->now, &set);
    if (set.many) return -1;
    for (int i = 0; i < 4; i++) {
        for (uint64_t left = set.bits[i]; left; left &= left - 1) {
            uint8_t byte = (uint8_t)(i * 64 + __builtin_ctzll(left));
            if (!is_allowed(forced, byte)) continue;
            if (only >= 0) return -1;
            only = byte;
        }
    }
    return only;
}

static int next_byte(forced_text *forced) {
    uint32_t blanks, level;
    api__gap gap = api__next_gap(forced->machine, forced->now.top[0], &blanks, &level);
    if (gap == API__NO_GAP) return only_byte(forced);
    int blank = next_blank(forced->style, gap, blanks, level);
    bool inside = gap == API__AFTER_COLON || gap == API__AFTER_COMMA;
    if (inside && blank >= 0 && is_allowed(forced, (uint8_t)blank)) return blank;
    int only = only_byte(forced);
    bool stands = blank >= 0 && closes(only) == (gap == API__BEFORE_CLOSE);
    return stands && is_allowed(forced, (uint8_t)blank) ? blank : only;
}

/* Adds one byte. False: the text ends here. */
static bool extend(forced_text *forced) {
    api__automaton *machine = forced->machine;
    if (forced->n == sizeof forced->text || machine->used > API__POOL / 2) return false;
    if (machine->fuel > forced->limit || api__automaton_done(machine, &forced->now)) return false;
    int byte = next_byte(forced);
    if (byte < 0) return false;
    api__readings next;
    api__automaton_step(machine, &forced->now, (uint8_t)byte, &next);
    forced->now = next;
    forced->text[forced->n++] = (char)byte;
    return next.n_tops > 0;
}

/* ---- tokens ---- */

/* The node of a byte among n siblings, in the order of bytes. NULL: there is none. */
static const api__trie_node *find_node(const api__trie_node *nodes, uint32_t n, uint8_t byte) {
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (nodes[mid].byte < byte) low = mid + 1;
        else high = mid;
    }
    return low < n && nodes[low].byte == byte ? &nodes[low] : NULL;
}

/* The longest token that the text has at `at`; the text grows as far as tokens go on. Returns its
 * bytes, 0: there is none. *open: the text ends before it is known that no longer one fits. */
static size_t longest_token(forced_text *forced, const api__trie *tree, size_t at, bool *open) {
    const api__trie_node *nodes = tree->nodes, *node;
    uint32_t n_nodes = tree->n_roots;
    size_t longest = 0;
    for (size_t i = at; n_nodes > 0; i++) {
        *open = i == forced->n && !extend(forced);
        if (*open) break;
        node = find_node(nodes, n_nodes, (uint8_t)forced->text[i]);
        if (node == NULL) break;
        if (node->token != API__NO_TOKEN) longest = i + 1 - at;
        nodes = tree->nodes + node->child;
        n_nodes = node->n_children;
    }
    return longest;
}

/* Most tokenizers leave the last of several blanks to the sign behind. */
static bool leaves_space(const forced_text *forced, const api__trie *tree, size_t at, size_t n) {
    const char *text = forced->text + at;
    if (n < 2 || text[n - 1] != ' ' || at + n == forced->n) return false;
    for (size_t i = 0; i < n; i++) {
        if (!is_blank((uint8_t)text[i])) return false;
    }
    const api__trie_node *space = find_node(tree->nodes, tree->n_roots, ' ');
    return !is_blank((uint8_t)text[n]) && space &&
           find_node(tree->nodes + space->child, space->n_children, (uint8_t)text[n]);
}

/* The token with this text, or API__NO_TOKEN. Of several the last: byte tokens come before those of
 * whole characters. */
static uint32_t token_of(const api__vocab *vocab, const char *text, size_t n) {
    uint32_t from, to, token = API__NO_TOKEN;
    size_t len;
    api__vocab_beginning(vocab, text, n, &from, &to);
    for (; from < to && tokenizer_bytes(vocab->tokenizer, vocab->sorted[from], &len) && len == n;
         from++)
        token = vocab->sorted[from];
    return token;
}

/* The bytes of the token at `at` as the tokenizer merges text; 0: it does not, or not that far. A
 * new line may belong to the sign in front, and one space to the sign behind; merges of other
 * blanks depend on how the text is split before. */
static size_t merged_token(forced_text *forced, const tokenizer *tok, size_t at, bool *open) {
    enum { WINDOW = 24 };
    uint32_t ids[TOKENIZER_PIECE];
    const char *text = forced->text + at;
    size_t n = 1, len;
    for (*open = false; forced->n < at + WINDOW && !*open;)
        *open = !extend(forced);
    if (at == forced->n) return 0;
    while (at + n < forced->n && n < WINDOW && !is_blank((uint8_t)text[n]))
        n++;
    if (at + n < forced->n && n < WINDOW && text[n] == '\n') n++;
    if (is_blank((uint8_t)text[0]) && (n == 1 || text[0] != ' ')) return 0;
    size_t count = tokenizer_merge(tok, text, n, ids);
    if (count == 0 || (count == 1 && n == WINDOW)) return 0;
    *open = *open && at + n == forced->n;
    return tokenizer_bytes(tok, ids[0], &len) ? len : 0;
}

void api__forced_find(api__forced *out, const api__vocab *vocab, api__automaton *machine,
                      const api__readings *now, const api__style *style, uint64_t limit) {
    forced_text forced = {.machine = machine, .style = style, .limit = limit, .now = *now};
    size_t at = 0, n;
    *out = (api__forced){0};
    while (out->n < API__MOST_FORCED) {
        n = merged_token(&forced, vocab->tokenizer, at, &out->open);
        if (n == 0) n = longest_token(&forced, &vocab->all.tree, at, &out->open);
        if (n == 0) break;
        uint32_t token = API__NO_TOKEN;
        if (leaves_space(&forced, &vocab->all.tree, at, n))
            token = token_of(vocab, forced.text + at, n - 1);
        if (token != API__NO_TOKEN) n--;
        else token = token_of(vocab, forced.text + at, n);
        out->tokens[out->n++] = token;
        at += n;
    }
    out->open = out->open && at == forced.n && api__within_name(machine, forced.now.top[0]);
}

bool api__forced_may_grow(const api__vocab *vocab, const eng_mask *mask, uint32_t token) {
    uint32_t from, to;
    size_t n, len;
    const char *text = tokenizer_bytes(vocab->tokenizer, token, &n);
    api__vocab_beginning(vocab, text, n, &from, &to);
    for (uint32_t i = from; i < to; i++) {
        uint32_t id = vocab->sorted[i];
        if (eng_mask_allows(mask, id) && tokenizer_bytes(vocab->tokenizer, id, &len) && len > n)
            return true;
    }
    return false;
}
