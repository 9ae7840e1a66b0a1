/* filters_text.c - filters that give a text or a number. */
#include "text/jinja/jinja_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static jval cased(jvm *vm, jval self, int how) {
    jstring *s = jinja__str(vm, self);
    return s ? jinja__of_string(jinja__change_case(vm, s, how)) : jinja__undefined(NULL);
}
static jval upper(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return cased(vm, self, J_UPPER);
}
static jval lower(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return cased(vm, self, J_LOWER);
}
static jval capitalize(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return cased(vm, self, J_CAPITALIZE);
}

static bool ends_word(uint32_t cp) {
    return jinja__is_space(cp) || (cp && cp < 0x80 && strchr("-({[<", (int)cp));
}

/* Words begin behind white space and - ( { [ <, unlike the method's. */
static jval title(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *s = jinja__str(vm, self);
    jwriter *w = jinja__new_writer(vm, s ? s->n : 0);
    bool begins = true;
    for (size_t at = 0, len; s && at < s->n && jinja__work(vm, 1); at += len) {
        bool ends = ends_word(jinja__code_point(s->s + at, s->n - at, &len));
        jstring *part = jinja__part(vm, s, at, at + len);
        if (part && !ends) part = jinja__change_case(vm, part, begins ? J_UPPER : J_LOWER);
        jinja__write_string(vm, w, part);
        begins = ends;
    }
    return jinja__of_string(jinja__written(vm, w));
}

static jval trim(jvm *vm, jval self, const jcall *call) {
    jstring *s = jinja__str(vm, self), *chars = jinja__arg_string(vm, call, 0, "chars");
    return s ? jinja__of_string(jinja__stripped(vm, s, chars, true, true)) : jinja__undefined(NULL);
}

static jval replace(jvm *vm, jval self, const jcall *call) {
    jval old = jinja__none(), by = jinja__none();
    (void)jinja__arg(call, 0, "old", &old);
    (void)jinja__arg(call, 1, "new", &by);
    jstring *s = jinja__str(vm, self), *from = jinja__str(vm, old), *to = jinja__str(vm, by);
    int64_t count = jinja__arg_int(vm, call, 2, "count", -1);
    if (vm->failed) return jinja__undefined(NULL);
    return jinja__of_string(jinja__replace(vm, s, from, to, count));
}

static jval to_string(jvm *vm, jval self, const jcall *call) {
    (void)call;
    return jinja__of_string(jinja__str(vm, self));
}

static jval to_json(jvm *vm, jval self, const jcall *call) {
    return jinja__to_json(vm, self, call);
}

static jval escape(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *s = jinja__str(vm, self);
    if (s == NULL || s->safe) return jinja__of_string(s);
    return jinja__of_string(jinja__escape(vm, s));
}

static jval forced_escape(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *s = jinja__str(vm, self);
    return s ? jinja__of_string(jinja__escape(vm, s)) : jinja__undefined(NULL);
}

static jval safe(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *s = jinja__str(vm, self);
    s = s ? jinja__part(vm, s, 0, s->n) : NULL;
    if (s) s->safe = true;
    return jinja__of_string(s);
}

static jval center(jvm *vm, jval self, const jcall *call) {
    static const jstring space = {.s = " ", .n = 1, .chars = 1, .trusted = true};
    int64_t width = jinja__arg_int(vm, call, 0, "width", 80);
    jstring *s = jinja__str(vm, self);
    return vm->failed ? jinja__undefined(NULL)
                      : jinja__of_string(jinja__padded(vm, s, width, &space, '^'));
}

/* Every line behind the first gets white space before it; empty lines only where asked. */
static jval indent(jvm *vm, jval self, const jcall *call) {
    jval width = jinja__int(4);
    (void)jinja__arg(call, 0, "width", &width);
    bool first = jinja__arg_bool(call, 1, "first", false),
         blank = jinja__arg_bool(call, 2, "blank", false);
    if (self.kind != J_STRING) {
        if (jinja__use_undefined(vm, self)) jinja__fail(vm, "'indent' of a %s", jinja__type(self));
        return jinja__undefined(NULL);
    }
    if (width.kind != J_STRING) width = jinja__binary(vm, OP_MUL, jinja__text(vm, " "), width);
    const jstring *s = self.u.s;
    jlist *lines = jinja__lines(vm, s, false);
    if (lines && (s->n == 0 || s->s[s->n - 1] == '\n'))
        jinja__push(vm, lines, jinja__of_string(jinja__part(vm, s, s->n, s->n)));
    jwriter *w = jinja__new_writer(vm, 0);
    for (size_t i = 0; lines && i < lines->n && jinja__work(vm, 1); i++) {
        const jstring *line = lines->items[i].u.s;
        size_t end, before = (size_t)(line->s - s->s);
        if (i) jinja__write(vm, w, "\n", 1, jinja__origin(s, before - 1, &end));
        if (i ? blank || line->n : first) jinja__write_string(vm, w, width.u.s);
        jinja__write_string(vm, w, line);
    }
    jstring *out = jinja__written(vm, w);
    if (out) out->safe = s->safe;
    return jinja__of_string(out);
}

/* ---- numbers ---- */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static jval size_of(jvm *vm, jval self, const jcall *call) {
    (void)call;
    switch ((jkind)self.kind) {
    case J_UNDEFINED: return jinja__int(0);
    case J_STRING: return jinja__int((int64_t)jinja__chars(self.u.s));
    case J_DICT: return jinja__int((int64_t)self.u.dict->n);
    case J_LIST:
        if (self.u.list->form != J_IS_ITERATOR) return jinja__int((int64_t)self.u.list->n);
        /* fall through */
    default: return jinja__fail(vm, "a %s has no length", jinja__type(self));
    }
}

/* The number that a text spells in Python's way; false: none. */
static bool spelled(jvm *vm, jstring *s, bool real, jval *out) {
    static const char *const words[] = {"inf", "infinity", "nan"};
    char text[64], *end;
    jstring *plain = jinja__stripped(vm, s, NULL, true, true);
    size_t n = 0, sign;
    if (plain == NULL || plain->n == 0 || plain->n >= sizeof text) return false;
    for (size_t i = 0; i < plain->n; i++) {
        char c = plain->s[i];
        bool between =
            i > 0 && i + 1 < plain->n && is_digit(plain->s[i - 1]) && is_digit(plain->s[i + 1]);
        if (c == '_' && between) continue;
        text[n++] = c;
    }
    text[n] = 0;
    sign = text[0] == '-' || text[0] == '+';
    for (size_t i = 0; real && i < ARRAY_LEN(words); i++) {
        if (strcasecmp(text + sign, words[i]) != 0) continue;
        *out = jinja__real(i == 2 ? NAN : text[0] == '-' ? -INFINITY : INFINITY);
        return true;
    }
    if (strspn(text, real ? "0123456789+-.eE" : "0123456789+-") != n) return false;
    errno = 0;
    if (real) *out = jinja__real(strtod(text, &end));
    else *out = jinja__int(strtoll(text, &end, 10));
    return *end == 0 && (real || errno != ERANGE);
}

static jval to_int(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__int(0), v;
    int64_t i;
    (void)jinja__arg(call, 0, "default", &otherwise);
    if (jinja__integer(self, &i)) return jinja__owned(jinja__int(i), self.client);
    if (self.kind == J_REAL && fabs(self.u.d) < 9.2e18)
        return jinja__owned(jinja__int((int64_t)self.u.d), self.client);
    if (self.kind == J_STRING) {
        bool client = !jinja__all_trusted(self.u.s);
        if (spelled(vm, self.u.s, false, &v)) return jinja__owned(v, client);
        if (spelled(vm, self.u.s, true, &v) && fabs(v.u.d) < 9.2e18)
            return jinja__owned(jinja__int((int64_t)v.u.d), client);
    }
    return otherwise;
}

static jval to_float(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__real(0), v;
    double d;
    (void)jinja__arg(call, 0, "default", &otherwise);
    if (jinja__number(self, &d)) return jinja__owned(jinja__real(d), self.client);
    if (self.kind == J_STRING && spelled(vm, self.u.s, true, &v))
        return jinja__owned(v, !jinja__all_trusted(self.u.s));
    return otherwise;
}

static jval absolute(jvm *vm, jval self, const jcall *call) {
    int64_t i;
    (void)call;
    if (self.kind == J_REAL) return jinja__owned(jinja__real(fabs(self.u.d)), self.client);
    if (!jinja__integer(self, &i)) return jinja__fail(vm, "'abs' of a %s", jinja__type(self));
    return i < 0 ? jinja__binary(vm, OP_SUB, jinja__owned(jinja__int(0), self.client), self)
                 : jinja__owned(jinja__int(i), self.client);
}

/* To so many places of the decimal fraction, as Python rounds: the nearest, by its exact value. */
static double round_to(double d, int places) {
    char text[400];
    if (places < 0) {
        double scale = pow(10, -places);
        return nearbyint(d / scale) * scale;
    }
    (void)snprintf(text, sizeof text, "%.*f", places, d);
    return strtod(text, NULL);
}

static jval rounded(jvm *vm, jval self, const jcall *call) {
    int64_t precision = jinja__arg_int(vm, call, 0, "precision", 0), i;
    jstring *method = jinja__arg_string(vm, call, 1, "method");
    double d, scale;
    if (vm->failed || !jinja__use_undefined(vm, self)) return jinja__undefined(NULL);
    if (!jinja__number(self, &d)) return jinja__fail(vm, "'round' of a %s", jinja__type(self));
    if (precision < -15 || precision > 15) return jinja__fail(vm, "'round' to so many places");
    scale = pow(10, (double)precision);
    if (method == NULL || jinja__is(method, "common")) {
        if (jinja__integer(self, &i) && precision >= 0)
            return jinja__owned(jinja__int(i), self.client);
        d = round_to(d, (int)precision);
        if (jinja__integer(self, &i)) return jinja__owned(jinja__int((int64_t)d), self.client);
    } else if (jinja__is(method, "ceil")) {
        d = ceil(d * scale) / scale;
    } else if (jinja__is(method, "floor")) {
        d = floor(d * scale) / scale;
    } else {
        return jinja__fail(vm, "'round' has no such method");
    }
    return jinja__owned(jinja__real(d), self.client);
}

static jval fallback(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__text(vm, "");
    (void)jinja__arg(call, 0, "default_value", &otherwise);
    bool boolean = jinja__arg_bool(call, 1, "boolean", false);
    return self.kind == J_UNDEFINED || (boolean && !jinja__true(self)) ? otherwise : self;
}

static jval wordcount(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *s = jinja__str(vm, self);
    int64_t n = 0;
    bool inside = false;
    for (size_t at = 0, len; s && at < s->n && jinja__work(vm, 0); at += len) {
        uint32_t cp = jinja__code_point(s->s + at, s->n - at, &len);
        bool word = cp == '_' || jinja__is_alnum(cp);
        n += word && !inside;
        inside = word;
    }
    return jinja__int(n);
}

const jfunction jinja__text_filters[] = {
    {"trim", trim, "chars", 0, 1},
    {"tojson", to_json, "ensure_ascii indent separators sort_keys", 0, 4},
    {"length", size_of, "", 0, 0},
    {"count", size_of, "", 0, 0},
    {"string", to_string, "", 0, 0},
    {"default", fallback, "default_value boolean", 0, 2},
    {"d", fallback, "default_value boolean", 0, 2},
    {"upper", upper, "", 0, 0},
    {"lower", lower, "", 0, 0},
    {"title", title, "", 0, 0},
    {"capitalize", capitalize, "", 0, 0},
    {"replace", replace, "old new count", 2, 3},
    {"center", center, "width", 0, 1},
    {"indent", indent, "width first blank", 0, 3},
    {"int", to_int, "default", 0, 1},
    {"float", to_float, "default", 0, 1},
    {"abs", absolute, "", 0, 0},
    {"round", rounded, "precision method", 0, 2},
    {"escape", escape, "", 0, 0},
    {"e", escape, "", 0, 0},
    {"forceescape", forced_escape, "", 0, 0},
    {"safe", safe, "", 0, 0},
    {"format", jinja__format_filter, "*", 0, 1 << 20},
    {"wordcount", wordcount, "", 0, 0},
};
const size_t jinja__n_text_filters = ARRAY_LEN(jinja__text_filters);
