/* filters_text.c - filters with a text or a number as result. */
#include "text/jinja/jinja_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static jval cased(jvm *vm, jval self, int how) {
    jstring *text = jinja__str(vm, self);
    return text ? jinja__of_string(jinja__change_case(vm, text, how)) : jinja__undefined(NULL);
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

/* Words begin behind white space and - ( { [ <. The method title() has another rule. */
static jval title(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *text = jinja__str(vm, self);
    jwriter *out = jinja__new_writer(vm, text ? text->len : 0);
    bool begins = true;
    for (size_t at = 0, len; text && at < text->len && jinja__work(vm, 1); at += len) {
        bool ends = ends_word(jinja__code_point(text->bytes + at, text->len - at, &len));
        jstring *part = jinja__part(vm, text, at, at + len);
        if (part && !ends) part = jinja__change_case(vm, part, begins ? J_UPPER : J_LOWER);
        jinja__write_string(vm, out, part);
        begins = ends;
    }
    return jinja__of_string(jinja__written(vm, out));
}

static jval trim(jvm *vm, jval self, const jcall *call) {
    jstring *text = jinja__str(vm, self), *chars = jinja__arg_string(vm, call, 0, "chars");
    return text ? jinja__of_string(jinja__stripped(vm, text, chars, true, true))
                : jinja__undefined(NULL);
}

static jval replace(jvm *vm, jval self, const jcall *call) {
    jval old = jinja__none(), by = jinja__none();
    (void)jinja__arg(call, 0, "old", &old);
    (void)jinja__arg(call, 1, "new", &by);
    jstring *text = jinja__str(vm, self), *from = jinja__str(vm, old), *to = jinja__str(vm, by);
    int64_t count = jinja__arg_int(vm, call, 2, "count", -1);
    if (vm->failed) return jinja__undefined(NULL);
    return jinja__of_string(jinja__replace(vm, text, from, to, count));
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
    jstring *text = jinja__str(vm, self);
    if (text == NULL || text->safe) return jinja__of_string(text);
    return jinja__of_string(jinja__escape(vm, text));
}

static jval forced_escape(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *text = jinja__str(vm, self);
    return text ? jinja__of_string(jinja__escape(vm, text)) : jinja__undefined(NULL);
}

static jval safe(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *text = jinja__str(vm, self);
    text = text ? jinja__part(vm, text, 0, text->len) : NULL;
    if (text) text->safe = true;
    return jinja__of_string(text);
}

static jval center(jvm *vm, jval self, const jcall *call) {
    static const jstring space = {.bytes = " ", .len = 1, .chars = 1, .trusted = true};
    int64_t width = jinja__arg_int(vm, call, 0, "width", 80);
    jstring *text = jinja__str(vm, self);
    return vm->failed ? jinja__undefined(NULL)
                      : jinja__of_string(jinja__padded(vm, text, width, &space, '^'));
}

/* Indents every line but the first. `first` adds the first, `blank` adds empty lines. */
static jval indent(jvm *vm, jval self, const jcall *call) {
    jval width = jinja__int(4);
    (void)jinja__arg(call, 0, "width", &width);
    bool first = jinja__arg_bool(call, 1, "first", false),
         blank = jinja__arg_bool(call, 2, "blank", false);
    if (self.kind != J_STRING) {
        if (jinja__check_defined(vm, self)) jinja__fail(vm, "'indent' of a %s", jinja__type(self));
        return jinja__undefined(NULL);
    }
    if (width.kind != J_STRING) width = jinja__binary(vm, OP_MUL, jinja__text(vm, " "), width);
    const jstring *text = self.string;
    jlist *lines = jinja__lines(vm, text, false);
    if (lines && (text->len == 0 || text->bytes[text->len - 1] == '\n'))
        jinja__push(vm, lines, jinja__of_string(jinja__part(vm, text, text->len, text->len)));
    jwriter *writer = jinja__new_writer(vm, 0);
    for (size_t i = 0; lines && i < lines->count && jinja__work(vm, 1); i++) {
        const jstring *line = lines->items[i].string;
        size_t end, before = (size_t)(line->bytes - text->bytes);
        if (i) jinja__write(vm, writer, "\n", 1, jinja__origin(text, before - 1, &end));
        if (i ? blank || line->len : first) jinja__write_string(vm, writer, width.string);
        jinja__write_string(vm, writer, line);
    }
    jstring *out = jinja__written(vm, writer);
    if (out) out->safe = text->safe;
    return jinja__of_string(out);
}

/* ---- numbers ---- */

static bool is_digit(char ch) {
    return ch >= '0' && ch <= '9';
}

static jval size_of(jvm *vm, jval self, const jcall *call) {
    (void)call;
    switch ((jkind)self.kind) {
    case J_UNDEFINED: return jinja__int(0);
    case J_STRING: return jinja__int((int64_t)jinja__chars(self.string));
    case J_DICT: return jinja__int((int64_t)self.dict->count);
    case J_LIST:
        if (self.list->form != J_IS_ITERATOR) return jinja__int((int64_t)self.list->count);
        /* fall through */
    default: return jinja__fail(vm, "a %s has no length", jinja__type(self));
    }
}

/* Parses a number as Python's int() and float() do; false: not a number. */
static bool spelled(jvm *vm, jstring *text, bool real, jval *out) {
    static const char *const words[] = {"inf", "infinity", "nan"};
    char number[64], *end;
    jstring *plain = jinja__stripped(vm, text, NULL, true, true);
    size_t n = 0, sign;
    if (plain == NULL || plain->len == 0 || plain->len >= sizeof number) return false;
    for (size_t i = 0; i < plain->len; i++) {
        char ch = plain->bytes[i];
        bool between = i > 0 && i + 1 < plain->len && is_digit(plain->bytes[i - 1]) &&
                       is_digit(plain->bytes[i + 1]);
        if (ch == '_' && between) continue;
        number[n++] = ch;
    }
    number[n] = 0;
    sign = number[0] == '-' || number[0] == '+';
    for (size_t i = 0; real && i < ARRAY_LEN(words); i++) {
        if (strcasecmp(number + sign, words[i]) != 0) continue;
        *out = jinja__real(i == 2 ? NAN : number[0] == '-' ? -INFINITY : INFINITY);
        return true;
    }
    if (strspn(number, real ? "0123456789+-.eE" : "0123456789+-") != n) return false;
    errno = 0;
    if (real) *out = jinja__real(strtod(number, &end));
    else *out = jinja__int(strtoll(number, &end, 10));
    return *end == 0 && (real || errno != ERANGE);
}

static jval to_int(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__int(0), value;
    int64_t i;
    (void)jinja__arg(call, 0, "default", &otherwise);
    if (jinja__integer(self, &i)) return jinja__with_client(jinja__int(i), self.client);
    if (self.kind == J_REAL && fabs(self.real) < 9.2e18)
        return jinja__with_client(jinja__int((int64_t)self.real), self.client);
    if (self.kind == J_STRING) {
        bool client = !jinja__all_trusted(self.string);
        if (spelled(vm, self.string, false, &value)) return jinja__with_client(value, client);
        if (spelled(vm, self.string, true, &value) && fabs(value.real) < 9.2e18)
            return jinja__with_client(jinja__int((int64_t)value.real), client);
    }
    return otherwise;
}

static jval to_float(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__real(0), value;
    double real;
    (void)jinja__arg(call, 0, "default", &otherwise);
    if (jinja__number(self, &real)) return jinja__with_client(jinja__real(real), self.client);
    if (self.kind == J_STRING && spelled(vm, self.string, true, &value))
        return jinja__with_client(value, !jinja__all_trusted(self.string));
    return otherwise;
}

static jval absolute(jvm *vm, jval self, const jcall *call) {
    int64_t i;
    (void)call;
    if (self.kind == J_REAL) return jinja__with_client(jinja__real(fabs(self.real)), self.client);
    if (!jinja__integer(self, &i)) return jinja__fail(vm, "'abs' of a %s", jinja__type(self));
    return i < 0 ? jinja__binary(vm, OP_SUB, jinja__with_client(jinja__int(0), self.client), self)
                 : jinja__with_client(jinja__int(i), self.client);
}

/* Rounds to `places` decimals as Python does: by the exact value of the double. */
static double round_to(double real, int places) {
    char text[400];
    if (places < 0) {
        double scale = pow(10, -places);
        return nearbyint(real / scale) * scale;
    }
    (void)snprintf(text, sizeof text, "%.*f", places, real);
    return strtod(text, NULL);
}

static jval rounded(jvm *vm, jval self, const jcall *call) {
    int64_t precision = jinja__arg_int(vm, call, 0, "precision", 0), i;
    jstring *method = jinja__arg_string(vm, call, 1, "method");
    double real, scale;
    if (vm->failed || !jinja__check_defined(vm, self)) return jinja__undefined(NULL);
    if (!jinja__number(self, &real)) return jinja__fail(vm, "'round' of a %s", jinja__type(self));
    if (precision < -15 || precision > 15) return jinja__fail(vm, "'round' to so many places");
    scale = pow(10, (double)precision);
    if (method == NULL || jinja__is(method, "common")) {
        if (jinja__integer(self, &i) && precision >= 0)
            return jinja__with_client(jinja__int(i), self.client);
        real = round_to(real, (int)precision);
        if (jinja__integer(self, &i))
            return jinja__with_client(jinja__int((int64_t)real), self.client);
    } else if (jinja__is(method, "ceil")) {
        real = ceil(real * scale) / scale;
    } else if (jinja__is(method, "floor")) {
        real = floor(real * scale) / scale;
    } else {
        return jinja__fail(vm, "'round' has no such method");
    }
    return jinja__with_client(jinja__real(real), self.client);
}

static jval fallback(jvm *vm, jval self, const jcall *call) {
    jval otherwise = jinja__text(vm, "");
    (void)jinja__arg(call, 0, "default_value", &otherwise);
    bool boolean = jinja__arg_bool(call, 1, "boolean", false);
    return self.kind == J_UNDEFINED || (boolean && !jinja__true(self)) ? otherwise : self;
}

static jval wordcount(jvm *vm, jval self, const jcall *call) {
    (void)call;
    jstring *text = jinja__str(vm, self);
    int64_t n = 0;
    bool inside = false;
    for (size_t at = 0, len; text && at < text->len && jinja__work(vm, 0); at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
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
