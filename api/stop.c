/* stop.c - stop strings, matched over the text whatever the tokens were.
 *
 * One Knuth-Morris-Pratt automaton for each of the few stop strings. Its state is the
 * length of the longest end of the text that begins the stop string, so the longest state
 * is exactly what must be held back, and the string that is complete first ends the text. */
#include "api/api_internal.h"

void api__stop_init(api__stop *s, const char *text, size_t n) {
    *s = (api__stop){.text = text, .n = (uint8_t)n};
    uint8_t border = 0;
    for (uint8_t i = 1; i < s->n; i++) {
        while (border > 0 && text[i] != text[border])
            border = s->fail[border - 1];
        if (text[i] == text[border]) border++;
        s->fail[i] = border;
    }
}

size_t api__stop_feed(api__matcher *m, const char *bytes, size_t n, int *hit) {
    *hit = -1;
    for (size_t i = 0; i < n; i++) {
        for (uint8_t k = 0; k < m->n; k++) {
            const api__stop *s = &m->stops[k];
            uint8_t at = m->state[k];
            while (at > 0 && bytes[i] != s->text[at])
                at = s->fail[at - 1];
            if (bytes[i] == s->text[at]) at++;
            m->state[k] = at;
            if (at < s->n) continue;
            if (*hit < 0 || s->n > m->stops[*hit].n) *hit = k;
        }
        if (*hit >= 0) return i + 1;
    }
    return n;
}

size_t api__stop_held(const api__matcher *m) {
    size_t held = 0;
    for (uint8_t k = 0; k < m->n; k++) {
        if (m->state[k] > held) held = m->state[k];
    }
    return held;
}
