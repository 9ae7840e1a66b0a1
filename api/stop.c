/* stop.c - stop strings, matched over the text and independent of token boundaries.
 *
 * One Knuth-Morris-Pratt automaton for each stop string. Its state is the length of the longest end
 * of the text that begins the stop string. So the longest state is exactly the text to hold back,
 * and the first complete stop string ends the answer. */
#include "api/api_internal.h"

void api__stop_init(api__stop *stop, const char *text, size_t n) {
    *stop = (api__stop){.text = text, .len = (uint16_t)n};
    uint8_t border = 0;
    for (uint16_t i = 1; i < stop->len; i++) {
        while (border > 0 && text[i] != text[border])
            border = stop->fail[border - 1];
        if (text[i] == text[border]) border++;
        stop->fail[i] = border;
    }
}

size_t api__stop_feed(api__matcher *matcher, const char *bytes, size_t n, int *hit) {
    *hit = -1;
    for (size_t i = 0; i < n; i++) {
        for (uint8_t k = 0; k < matcher->n_stops; k++) {
            const api__stop *stop = &matcher->stops[k];
            uint16_t at = matcher->state[k];
            while (at > 0 && bytes[i] != stop->text[at])
                at = stop->fail[at - 1];
            if (bytes[i] == stop->text[at]) at++;
            matcher->state[k] = at < stop->len ? (uint8_t)at : 0;
            if (at < stop->len) continue;
            if (*hit < 0 || stop->len > matcher->stops[*hit].len) *hit = k;
        }
        if (*hit >= 0) return i + 1;
    }
    return n;
}

size_t api__stop_held(const api__matcher *matcher) {
    size_t held = 0;
    for (uint8_t k = 0; k < matcher->n_stops; k++) {
        if (matcher->state[k] > held) held = matcher->state[k];
    }
    return held;
}
