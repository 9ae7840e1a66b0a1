/* format.c - values put into a pattern: 'a %s' % x, 'a {}'.format(x). */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_WIDTH = 1000, MAX_PRECISION = 60 };

/* How one value is written. */
typedef struct {
    char align, sign, type; /* 0: not said */
    const char *fill;       /* one character of fill_n bytes */
    size_t fill_n;
    bool alternate, commas;
    int64_t width, precision; /* precision -1: not said */
    bool trusted;             /* of what the pattern adds */
} spec;

static size_t digits(jvm *vm, const jstring *s, size_t at, int64_t most, int64_t *out) {
    *out = 0;
    for (; at < s->n && s->s[at] >= '0' && s->s[at] <= '9'; at++) {
        *out = *out * 10 + (s->s[at] - '0');
        if (*out <= most) continue;
        jinja__costly(vm, "a text is to be filled up to more than %lld characters",
                      (long long)most);
        return s->n;
    }
    return at;
}

static void fill(jvm *vm, jwriter *w, const spec *f, size_t n) {
    for (; n > 0 && !vm->failed; n--)
        jinja__write(vm, w, f->fill, f->fill_n, f->trusted);
}

/* text, of which the first `sign` bytes stay before zeros */
static void write_padded(jvm *vm, jwriter *w, const spec *f, jstring *text, size_t sign) {
    size_t n = jinja__chars(text), width = (size_t)f->width, pad = width > n ? width - n : 0;
    size_t before = f->align == '<' ? 0 : f->align == '^' ? pad / 2 : pad;
    if (f->align != '=') sign = 0;
    jinja__write_part(vm, w, text, 0, sign);
    fill(vm, w, f, before);
    jinja__write_part(vm, w, text, sign, text->n);
    fill(vm, w, f, pad - before);
}

static void write_text(jvm *vm, jwriter *w, spec f, jstring *text) {
    if (text == NULL || !jinja__work(vm, text->n)) return;
    if (f.precision >= 0 && (size_t)f.precision < jinja__chars(text))
        text = jinja__part(vm, text, 0, jinja__char_at(text, (size_t)f.precision));
    if (text) write_padded(vm, w, &f, text, 0);
}

/* Commas between groups of three digits before the point. */
static size_t with_commas(const char *text, size_t n, char *out) {
    size_t begin = text[0] == '-' || text[0] == '+' || text[0] == ' ', end = begin, used = 0;
    while (end < n && text[end] >= '0' && text[end] <= '9')
        end++;
    for (size_t i = 0; i < n; i++) {
        if (i > begin && i < end && (end - i) % 3 == 0) out[used++] = ',';
        out[used++] = text[i];
    }
    return used;
}

static bool print_number(const spec *f, jval v, char *out, size_t room, size_t *n) {
    char form[16], sign[2] = {f->sign == '+' || f->sign == ' ' ? f->sign : 0, 0};
    int64_t i = 0;
    double d = 0;
    int len = -1;
    bool whole = jinja__integer(v, &i);
    if (!whole && !jinja__number(v, &d)) return false;
    if (f->type && strchr("dixXo", f->type)) {
        if (!whole) i = (int64_t)d;
        bool minus = i < 0;
        uint64_t size = minus ? 0 - (uint64_t)i : (uint64_t)i;
        const char *prefix = !f->alternate || f->type == 'd' ? ""
                             : f->type == 'o'                ? "0o"
                             : f->type == 'x'                ? "0x"
                                                             : "0X";
        const char *by = f->type == 'x'   ? "%s%s%llx"
                         : f->type == 'X' ? "%s%s%llX"
                         : f->type == 'o' ? "%s%s%llo"
                                          : "%s%s%llu";
        len = snprintf(out, room, by, minus ? "-" : sign, prefix, (unsigned long long)size);
    } else {
        if (whole) d = (double)i;
        (void)snprintf(form, sizeof form, "%%%s%s.*%c", sign, f->alternate ? "#" : "", f->type);
        len = snprintf(out, room, form, f->precision < 0 ? 6 : (int)f->precision, d);
    }
    *n = (size_t)len;
    return len >= 0 && *n < room;
}

static void write_number(jvm *vm, jwriter *w, spec f, jval v) {
    char text[512], grouped[700];
    const char *from = text;
    size_t n;
    bool percent = f.type == '%';
    if (percent) {
        v = jinja__owned(jinja__binary(vm, OP_MUL, v, jinja__int(100)), v.client);
        f.type = 'f';
    }
    if (v.kind == J_REAL && f.type && strchr("dixXo", f.type) && !(fabs(v.u.d) < 9.2e18)) {
        jinja__fail(vm, "a number is too large");
        return;
    }
    if (!print_number(&f, v, text, sizeof text - 1, &n)) {
        if (jinja__use_undefined(vm, v))
            jinja__fail(vm, "a %s is written as a number", jinja__type(v));
        return;
    }
    if (percent) text[n++] = '%';
    if (f.commas) {
        n = with_commas(text, n, grouped);
        from = grouped;
    }
    jstring *s = jinja__copy(vm, from, n, f.trusted && !v.client);
    if (s) write_padded(vm, w, &f, s, *from == '-' || *from == '+' || *from == ' ');
}

/* ---- 'a %s' % x ---- */

typedef struct {
    jvm *vm;
    jwriter *w;
    const jstring *pattern;
    jval args; /* a tuple: one each; a dict: by name; else the one value */
    size_t used;
    bool named;
} percent;

static jval next_arg(percent *p) {
    bool tuple = jinja__is_list(p->args, J_IS_TUPLE);
    size_t n = tuple ? p->args.u.list->n : 1, at = p->used++;
    if (at >= n) return jinja__fail(p->vm, "'%%' has too few values");
    return tuple ? p->args.u.list->items[at] : p->args;
}

/* "(name)" behind the percent sign */
static size_t named_arg(percent *p, size_t at, jval *out) {
    size_t end = jinja__find(p->pattern, at, ")", 1);
    if (end == SIZE_MAX || p->args.kind != J_DICT) {
        jinja__fail(p->vm, "'%%' wants a dict");
        return p->pattern->n;
    }
    const jval *v = jinja__dict_get(p->vm, p->args.u.dict,
                                    jinja__of_string(jinja__part(p->vm, p->pattern, at, end)));
    if (v == NULL && !p->vm->failed) jinja__fail(p->vm, "'%%' names a value that is not there");
    *out = v ? *v : jinja__none();
    p->named = true;
    return end + 1;
}

static size_t width_or_star(percent *p, size_t at, int64_t most, int64_t *out) {
    if (at >= p->pattern->n || p->pattern->s[at] != '*')
        return digits(p->vm, p->pattern, at, most, out);
    jval v = next_arg(p);
    if (!jinja__integer(v, out) || *out < 0 || *out > most)
        jinja__fail(p->vm, "'%%' has a width that is not supported");
    return at + 1;
}

static size_t percent_flags(const jstring *s, size_t at, spec *f) {
    for (; at < s->n && s->s[at] && strchr("#0- +", s->s[at]); at++) {
        char c = s->s[at];
        if (c == '#') f->alternate = true;
        else if (c == '-') f->align = '<';
        else if (c == '+' || (c == ' ' && f->sign == 0)) f->sign = c;
        else if (c == '0') f->fill = "0";
    }
    if (*f->fill == '0' && f->align != '<') f->align = '=';
    else f->fill = " ";
    return at;
}

static void percent_value(percent *p, spec f, jval v) {
    if (f.type == 'c' && (v.kind != J_STRING || jinja__chars(v.u.s) != 1))
        jinja__fail(p->vm, "'%%c' wants one character");
    if (strchr("srac", f.type)) {
        f.fill = " ";
        if (f.align == '=') f.align = '>';
        jwriter *w = jinja__new_writer(p->vm, 0);
        if (w && (f.type == 's' || f.type == 'c')) jinja__write_value(p->vm, w, v);
        else if (w) jinja__write_repr(p->vm, w, v);
        write_text(p->vm, p->w, f, jinja__written(p->vm, w));
    } else {
        if (f.type == 'i' || f.type == 'u') f.type = 'd';
        if (strchr("xXo", f.type) && v.kind == J_REAL)
            jinja__fail(p->vm, "'%%%c' of a float", f.type);
        write_number(p->vm, p->w, f, v);
    }
}

/* One conversion; `at` stands behind its percent sign. Comes back behind it. */
static size_t conversion(percent *p, size_t at) {
    const jstring *s = p->pattern;
    size_t end;
    spec f = {.fill = " ", .fill_n = 1, .align = '>', .precision = -1};
    f.trusted = jinja__origin(s, at - 1, &end);
    jval v = jinja__none();
    bool named = at < s->n && s->s[at] == '(';
    if (named) at = named_arg(p, at + 1, &v);
    at = percent_flags(s, at, &f);
    at = width_or_star(p, at, MAX_WIDTH, &f.width);
    if (at < s->n && s->s[at] == '.') at = width_or_star(p, at + 1, MAX_PRECISION, &f.precision);
    if (at >= s->n || s->s[at] == 0 || !strchr("sradiuxXofFeEgGc%", s->s[at])) {
        jinja__fail(p->vm, "a form behind '%%' is wrong or not supported");
        return s->n;
    }
    f.type = s->s[at];
    if (f.type == '%') jinja__write_part(p->vm, p->w, s, at, at + 1);
    else percent_value(p, f, named ? v : next_arg(p));
    return at + 1;
}

jval jinja__percent(jvm *vm, jstring *pattern, jval args) {
    if (!jinja__is_plain(vm, pattern, "%")) return jinja__undefined(NULL);
    percent p = {.vm = vm, .w = jinja__new_writer(vm, 0), .pattern = pattern, .args = args};
    for (size_t at = 0; at < pattern->n && jinja__work(vm, 1);) {
        size_t sign = jinja__find(pattern, at, "%", 1);
        jinja__write_part(vm, p.w, pattern, at, sign == SIZE_MAX ? pattern->n : sign);
        at = sign == SIZE_MAX ? pattern->n : conversion(&p, sign + 1);
    }
    bool tuple = jinja__is_list(args, J_IS_TUPLE);
    bool spare = args.kind == J_DICT || args.kind == J_UNDEFINED || (args.kind == J_LIST && !tuple);
    if (p.used < (tuple ? args.u.list->n : 1) && !spare)
        return jinja__fail(vm, "'%%' has too many values");
    return jinja__of_string(jinja__written(vm, p.w));
}

jval jinja__format_filter(jvm *vm, jval self, const jcall *call) {
    jstring *pattern = jinja__str(vm, self);
    if (call->n_pos && call->n_named)
        return jinja__fail(vm, "'format' takes values or names, not both");
    jlist list = {.items = call->pos, .n = call->n_pos, .form = J_IS_TUPLE};
    jval args = (jval){.kind = J_LIST, .u.list = &list};
    if (call->n_named) args = jinja__of_dict(jinja__new_dict(vm));
    for (size_t i = 0; i < call->n_named && !vm->failed; i++)
        jinja__dict_set(vm, args.u.dict, jinja__text(vm, call->named[i].name),
                        call->named[i].value);
    return vm->failed ? jinja__undefined(NULL) : jinja__percent(vm, pattern, args);
}

/* ---- 'a {}'.format(x) ---- */

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static bool read_spec(jvm *vm, const jstring *s, spec *f) {
    size_t at = 0, len = 0;
    if (s->n) (void)jinja__code_point(s->s, s->n, &len);
    if (len && len < s->n && strchr("<>^=", s->s[len]) && s->s[len]) {
        f->fill = s->s;
        f->fill_n = len;
        f->align = s->s[len];
        at = len + 1;
    } else if (s->n && s->s[0] && strchr("<>^=", s->s[0])) {
        f->align = s->s[at++];
    }
    if (at < s->n && (s->s[at] == '+' || s->s[at] == '-' || s->s[at] == ' ')) f->sign = s->s[at++];
    if (at < s->n && s->s[at] == '#') f->alternate = s->s[at++] == '#';
    if (at < s->n && s->s[at] == '0' && f->align == 0) {
        f->fill = "0";
        f->align = '=';
    }
    at = digits(vm, s, at, MAX_WIDTH, &f->width);
    if (at < s->n && s->s[at] == ',') f->commas = s->s[at++] == ',';
    if (at < s->n && s->s[at] == '.') at = digits(vm, s, at + 1, MAX_PRECISION, &f->precision);
    if (at < s->n) f->type = s->s[at++];
    if (at == s->n && (f->type == 0 || strchr("sdxXofFeEgG%", f->type))) return !vm->failed;
    jinja__fail(vm, "the form of a value is wrong or not supported");
    return false;
}

static void write_formatted(jvm *vm, jwriter *w, jval v, const jstring *form, bool repr) {
    spec f = {.fill = " ", .fill_n = 1, .precision = -1, .trusted = jinja__all_trusted(form)};
    if (!read_spec(vm, form, &f)) return;
    bool number = !repr && (v.kind == J_INT || v.kind == J_REAL || (v.kind == J_BOOL && f.type));
    if (f.type && number != (f.type != 's')) {
        jinja__fail(vm, "the form '%c' is not for a %s", f.type, jinja__type(v));
        return;
    }
    if (f.align == 0) f.align = number ? '>' : '<';
    if (number && f.type == 0 && v.kind == J_INT) f.type = 'd';
    if (number && f.type) {
        write_number(vm, w, f, v);
        return;
    }
    if (f.commas || f.sign || (number && f.precision >= 0)) {
        jinja__fail(vm, "the form of a value is wrong or not supported");
        return;
    }
    if (!number && f.align == '=') f.align = '<';
    jwriter *text = jinja__new_writer(vm, 0);
    if (text && repr) jinja__write_repr(vm, text, v);
    else if (text) jinja__write_value(vm, text, v);
    write_text(vm, w, f, jinja__written(vm, text));
}

/* What stands between the brackets names: nothing, a number, or a name. */
static bool field_value(jvm *vm, const jcall *call, const jstring *name, size_t *next, jval *out) {
    int64_t at = 0;
    if (name->n == 0) {
        at = (int64_t)(*next)++;
    } else if (digits(vm, name, 0, 1 << 20, &at) != name->n) {
        for (size_t i = 0; i < call->n_named; i++) {
            if (!jinja__is(name, call->named[i].name)) continue;
            *out = call->named[i].value;
            return true;
        }
        jinja__fail(vm, "'format' names a value that is not there, or in a way not supported");
        return false;
    }
    if ((uint64_t)at < call->n_pos) {
        *out = call->pos[at];
        return true;
    }
    jinja__fail(vm, "'format' has too few values");
    return false;
}

static void field(jvm *vm, jwriter *w, const jstring *inside, const jcall *call, size_t *next) {
    size_t colon = jinja__find(inside, 0, ":", 1), bang = jinja__find(inside, 0, "!", 1);
    if (colon == SIZE_MAX) colon = inside->n;
    if (bang > colon) bang = colon;
    bool repr = bang < colon && colon - bang == 2 && inside->s[bang + 1] == 'r';
    if (bang < colon && !repr && !(colon - bang == 2 && inside->s[bang + 1] == 's')) {
        jinja__fail(vm, "'format' has a conversion that is not supported");
        return;
    }
    jval v;
    jstring *name = jinja__part(vm, inside, 0, bang),
            *form = jinja__part(vm, inside, colon + 1, inside->n);
    if (name == NULL || form == NULL || !field_value(vm, call, name, next, &v)) return;
    if (bang < colon && !repr) v = jinja__of_string(jinja__str(vm, v));
    if (!vm->failed) write_formatted(vm, w, v, form, repr);
}

jval jinja__str_format(jvm *vm, jval self, const jcall *call) {
    const jstring *s = self.u.s;
    if (!jinja__is_plain(vm, s, call->what)) return jinja__undefined(NULL);
    jwriter *w = jinja__new_writer(vm, 0);
    size_t kept = 0, next = 0;
    for (size_t at = 0; at < s->n && jinja__work(vm, 0); at++) {
        char c = s->s[at];
        if (c != '{' && c != '}') continue;
        jinja__write_part(vm, w, s, kept, at);
        kept = ++at;
        if (at < s->n && s->s[at] == c) continue; /* twice: once */
        size_t end = c == '{' ? jinja__find(s, at, "}", 1) : SIZE_MAX;
        if (end == SIZE_MAX)
            return jinja__fail(vm, "'format' has a bracket without its other half");
        jstring *inside = jinja__part(vm, s, at, end);
        if (inside) field(vm, w, inside, call, &next);
        kept = end + 1;
        at = end;
    }
    jinja__write_part(vm, w, s, kept, s->n);
    return jinja__of_string(jinja__written(vm, w));
}
