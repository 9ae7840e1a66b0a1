/* format.c - formatting of values by a pattern: 'a %s' % x, 'a {}'.format(x). */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_WIDTH = 1000, MAX_PRECISION = 60 };

/* The format of one value. */
typedef struct {
    char align, sign, type; /* 0: not given */
    const char *fill;       /* one character of fill_n bytes */
    size_t fill_n;
    bool alternate, commas;
    int64_t width, precision; /* precision -1: not given */
    bool trusted;             /* origin of bytes added by the pattern */
} value_style;

static size_t digits(jvm *vm, const jstring *text, size_t at, int64_t most, int64_t *out) {
    *out = 0;
    for (; at < text->len && text->bytes[at] >= '0' && text->bytes[at] <= '9'; at++) {
        *out = *out * 10 + (text->bytes[at] - '0');
        if (*out <= most) continue;
        jinja__costly(vm, "a text is to be filled up to more than %lld characters",
                      (long long)most);
        return text->len;
    }
    return at;
}

static void fill(jvm *vm, jwriter *out, const value_style *style, size_t n) {
    for (; n > 0 && !vm->failed; n--)
        jinja__write(vm, out, style->fill, style->fill_n, style->trusted);
}

/* Pads text. With '=' the first `sign` bytes stay before the padding. */
static void write_padded(jvm *vm, jwriter *out, const value_style *style, jstring *text,
                         size_t sign) {
    size_t n = jinja__chars(text), width = (size_t)style->width, pad = width > n ? width - n : 0;
    size_t before = style->align == '<' ? 0 : style->align == '^' ? pad / 2 : pad;
    if (style->align != '=') sign = 0;
    jinja__write_part(vm, out, text, 0, sign);
    fill(vm, out, style, before);
    jinja__write_part(vm, out, text, sign, text->len);
    fill(vm, out, style, pad - before);
}

static void write_text(jvm *vm, jwriter *out, value_style style, jstring *text) {
    if (text == NULL || !jinja__work(vm, text->len)) return;
    if (style.precision >= 0 && (size_t)style.precision < jinja__chars(text))
        text = jinja__part(vm, text, 0, jinja__char_at(text, (size_t)style.precision));
    if (text) write_padded(vm, out, &style, text, 0);
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

static bool print_number(const value_style *style, jval value, char *out, size_t room, size_t *n) {
    char form[16], sign[2] = {style->sign == '+' || style->sign == ' ' ? style->sign : 0, 0};
    int64_t i = 0;
    double real = 0;
    int len = -1;
    bool whole = jinja__integer(value, &i);
    if (!whole && !jinja__number(value, &real)) return false;
    if (style->type && strchr("dixXo", style->type)) {
        if (!whole) i = (int64_t)real;
        bool minus = i < 0;
        uint64_t size = minus ? 0 - (uint64_t)i : (uint64_t)i;
        const char *prefix = !style->alternate || style->type == 'd' ? ""
                             : style->type == 'o'                    ? "0o"
                             : style->type == 'x'                    ? "0x"
                                                                     : "0X";
        const char *by = style->type == 'x'   ? "%s%s%llx"
                         : style->type == 'X' ? "%s%s%llX"
                         : style->type == 'o' ? "%s%s%llo"
                                              : "%s%s%llu";
        len = snprintf(out, room, by, minus ? "-" : sign, prefix, (unsigned long long)size);
    } else {
        if (whole) real = (double)i;
        (void)snprintf(form, sizeof form, "%%%s%s.*%c", sign, style->alternate ? "#" : "",
                       style->type);
        len = snprintf(out, room, form, style->precision < 0 ? 6 : (int)style->precision, real);
    }
    *n = (size_t)len;
    return len >= 0 && *n < room;
}

static void write_number(jvm *vm, jwriter *out, value_style style, jval value) {
    char text[512], grouped[700];
    const char *from = text;
    size_t n;
    bool percent = style.type == '%';
    if (percent) {
        value = jinja__with_client(jinja__binary(vm, OP_MUL, value, jinja__int(100)), value.client);
        style.type = 'f';
    }
    if (value.kind == J_REAL && style.type && strchr("dixXo", style.type) &&
        !(fabs(value.real) < 9.2e18)) {
        jinja__fail(vm, "a number is too large");
        return;
    }
    if (!print_number(&style, value, text, sizeof text - 1, &n)) {
        if (jinja__check_defined(vm, value))
            jinja__fail(vm, "a %s is written as a number", jinja__type(value));
        return;
    }
    if (percent) text[n++] = '%';
    if (style.commas) {
        n = with_commas(text, n, grouped);
        from = grouped;
    }
    jstring *written = jinja__copy(vm, from, n, style.trusted && !value.client);
    if (written)
        write_padded(vm, out, &style, written, *from == '-' || *from == '+' || *from == ' ');
}

/* ---- 'a %s' % x ---- */

typedef struct {
    jvm *vm;
    jwriter *out;
    const jstring *pattern;
    jval args; /* a tuple: one value per conversion; a dict: values by name; else one value */
    size_t used;
    bool named;
} percent;

static jval next_arg(percent *fmt) {
    bool tuple = jinja__is_list(fmt->args, J_IS_TUPLE);
    size_t n = tuple ? fmt->args.list->count : 1, at = fmt->used++;
    if (at >= n) return jinja__fail(fmt->vm, "'%%' has too few values");
    return tuple ? fmt->args.list->items[at] : fmt->args;
}

/* The value of "(name)" behind the percent sign. Returns the offset behind it. */
static size_t named_arg(percent *fmt, size_t at, jval *out) {
    size_t end = jinja__find(fmt->pattern, at, ")", 1);
    if (end == SIZE_MAX || fmt->args.kind != J_DICT) {
        jinja__fail(fmt->vm, "'%%' wants a dict");
        return fmt->pattern->len;
    }
    const jval *value = jinja__dict_get(
        fmt->vm, fmt->args.dict, jinja__of_string(jinja__part(fmt->vm, fmt->pattern, at, end)));
    if (value == NULL && !fmt->vm->failed)
        jinja__fail(fmt->vm, "'%%' names a value that is not there");
    *out = value ? *value : jinja__none();
    fmt->named = true;
    return end + 1;
}

static size_t width_or_star(percent *fmt, size_t at, int64_t most, int64_t *out) {
    if (at >= fmt->pattern->len || fmt->pattern->bytes[at] != '*')
        return digits(fmt->vm, fmt->pattern, at, most, out);
    jval value = next_arg(fmt);
    if (!jinja__integer(value, out) || *out < 0 || *out > most)
        jinja__fail(fmt->vm, "'%%' has a width that is not supported");
    return at + 1;
}

static size_t percent_flags(const jstring *text, size_t at, value_style *style) {
    for (; at < text->len && text->bytes[at] && strchr("#0- +", text->bytes[at]); at++) {
        char ch = text->bytes[at];
        if (ch == '#') style->alternate = true;
        else if (ch == '-') style->align = '<';
        else if (ch == '+' || (ch == ' ' && style->sign == 0)) style->sign = ch;
        else if (ch == '0') style->fill = "0";
    }
    if (*style->fill == '0' && style->align != '<') style->align = '=';
    else style->fill = " ";
    return at;
}

static void percent_value(percent *fmt, value_style style, jval value) {
    if (style.type == 'c' && (value.kind != J_STRING || jinja__chars(value.string) != 1))
        jinja__fail(fmt->vm, "'%%c' wants one character");
    if (strchr("srac", style.type)) {
        style.fill = " ";
        if (style.align == '=') style.align = '>';
        jwriter *writer = jinja__new_writer(fmt->vm, 0);
        if (writer && (style.type == 's' || style.type == 'c'))
            jinja__write_value(fmt->vm, writer, value);
        else if (writer) jinja__write_repr(fmt->vm, writer, value);
        write_text(fmt->vm, fmt->out, style, jinja__written(fmt->vm, writer));
    } else {
        if (style.type == 'i' || style.type == 'u') style.type = 'd';
        if (strchr("xXo", style.type) && value.kind == J_REAL)
            jinja__fail(fmt->vm, "'%%%c' of a float", style.type);
        write_number(fmt->vm, fmt->out, style, value);
    }
}

/* Writes one conversion. `at` is the offset behind its percent sign. Returns the offset behind the
 * conversion. */
static size_t conversion(percent *fmt, size_t at) {
    const jstring *text = fmt->pattern;
    size_t end;
    value_style style = {.fill = " ", .fill_n = 1, .align = '>', .precision = -1};
    style.trusted = jinja__origin(text, at - 1, &end);
    jval value = jinja__none();
    bool named = at < text->len && text->bytes[at] == '(';
    if (named) at = named_arg(fmt, at + 1, &value);
    at = percent_flags(text, at, &style);
    at = width_or_star(fmt, at, MAX_WIDTH, &style.width);
    if (at < text->len && text->bytes[at] == '.')
        at = width_or_star(fmt, at + 1, MAX_PRECISION, &style.precision);
    if (at >= text->len || text->bytes[at] == 0 || !strchr("sradiuxXofFeEgGc%", text->bytes[at])) {
        jinja__fail(fmt->vm, "a form behind '%%' is wrong or not supported");
        return text->len;
    }
    style.type = text->bytes[at];
    if (style.type == '%') jinja__write_part(fmt->vm, fmt->out, text, at, at + 1);
    else percent_value(fmt, style, named ? value : next_arg(fmt));
    return at + 1;
}

jval jinja__percent(jvm *vm, jstring *pattern, jval args) {
    if (!jinja__check_plain(vm, pattern, "%")) return jinja__undefined(NULL);
    percent fmt = {.vm = vm, .out = jinja__new_writer(vm, 0), .pattern = pattern, .args = args};
    for (size_t at = 0; at < pattern->len && jinja__work(vm, 1);) {
        size_t sign = jinja__find(pattern, at, "%", 1);
        jinja__write_part(vm, fmt.out, pattern, at, sign == SIZE_MAX ? pattern->len : sign);
        at = sign == SIZE_MAX ? pattern->len : conversion(&fmt, sign + 1);
    }
    bool tuple = jinja__is_list(args, J_IS_TUPLE);
    bool spare = args.kind == J_DICT || args.kind == J_UNDEFINED || (args.kind == J_LIST && !tuple);
    if (fmt.used < (tuple ? args.list->count : 1) && !spare)
        return jinja__fail(vm, "'%%' has too many values");
    return jinja__of_string(jinja__written(vm, fmt.out));
}

jval jinja__format_filter(jvm *vm, jval self, const jcall *call) {
    jstring *pattern = jinja__str(vm, self);
    if (call->n_pos && call->n_named)
        return jinja__fail(vm, "'format' takes values or names, not both");
    jlist list = {.items = call->pos, .count = call->n_pos, .form = J_IS_TUPLE};
    jval args = (jval){.kind = J_LIST, .list = &list};
    if (call->n_named) args = jinja__of_dict(jinja__new_dict(vm));
    for (size_t i = 0; i < call->n_named && !vm->failed; i++)
        jinja__dict_set(vm, args.dict, jinja__text(vm, call->named[i].name), call->named[i].value);
    return vm->failed ? jinja__undefined(NULL) : jinja__percent(vm, pattern, args);
}

/* ---- 'a {}'.format(x) ---- */

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static bool read_spec(jvm *vm, const jstring *text, value_style *style) {
    size_t at = 0, len = 0;
    if (text->len) (void)jinja__code_point(text->bytes, text->len, &len);
    if (len && len < text->len && strchr("<>^=", text->bytes[len]) && text->bytes[len]) {
        style->fill = text->bytes;
        style->fill_n = len;
        style->align = text->bytes[len];
        at = len + 1;
    } else if (text->len && text->bytes[0] && strchr("<>^=", text->bytes[0])) {
        style->align = text->bytes[at++];
    }
    if (at < text->len &&
        (text->bytes[at] == '+' || text->bytes[at] == '-' || text->bytes[at] == ' '))
        style->sign = text->bytes[at++];
    if (at < text->len && text->bytes[at] == '#') style->alternate = text->bytes[at++] == '#';
    if (at < text->len && text->bytes[at] == '0' && style->align == 0) {
        style->fill = "0";
        style->align = '=';
    }
    at = digits(vm, text, at, MAX_WIDTH, &style->width);
    if (at < text->len && text->bytes[at] == ',') style->commas = text->bytes[at++] == ',';
    if (at < text->len && text->bytes[at] == '.')
        at = digits(vm, text, at + 1, MAX_PRECISION, &style->precision);
    if (at < text->len) style->type = text->bytes[at++];
    if (at == text->len && (style->type == 0 || strchr("sdxXofFeEgG%", style->type)))
        return !vm->failed;
    jinja__fail(vm, "the form of a value is wrong or not supported");
    return false;
}

static void write_formatted(jvm *vm, jwriter *out, jval value, const jstring *form, bool repr) {
    value_style style = {
        .fill = " ", .fill_n = 1, .precision = -1, .trusted = jinja__all_trusted(form)};
    if (!read_spec(vm, form, &style)) return;
    bool number = !repr && (value.kind == J_INT || value.kind == J_REAL ||
                            (value.kind == J_BOOL && style.type));
    if (style.type && number != (style.type != 's')) {
        jinja__fail(vm, "the form '%c' is not for a %s", style.type, jinja__type(value));
        return;
    }
    if (style.align == 0) style.align = number ? '>' : '<';
    if (number && style.type == 0 && value.kind == J_INT) style.type = 'd';
    if (number && style.type) {
        write_number(vm, out, style, value);
        return;
    }
    if (style.commas || style.sign || (number && style.precision >= 0)) {
        jinja__fail(vm, "the form of a value is wrong or not supported");
        return;
    }
    if (!number && style.align == '=') style.align = '<';
    jwriter *text = jinja__new_writer(vm, 0);
    if (text && repr) jinja__write_repr(vm, text, value);
    else if (text) jinja__write_value(vm, text, value);
    write_text(vm, out, style, jinja__written(vm, text));
}

/* The value of a field: {} the next argument, {0} by position, {a} by name. */
static bool field_value(jvm *vm, const jcall *call, const jstring *name, size_t *next, jval *out) {
    int64_t at = 0;
    if (name->len == 0) {
        at = (int64_t)(*next)++;
    } else if (digits(vm, name, 0, 1 << 20, &at) != name->len) {
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

static void field(jvm *vm, jwriter *out, const jstring *inside, const jcall *call, size_t *next) {
    size_t colon = jinja__find(inside, 0, ":", 1), bang = jinja__find(inside, 0, "!", 1);
    if (colon == SIZE_MAX) colon = inside->len;
    if (bang > colon) bang = colon;
    bool repr = bang < colon && colon - bang == 2 && inside->bytes[bang + 1] == 'r';
    if (bang < colon && !repr && !(colon - bang == 2 && inside->bytes[bang + 1] == 's')) {
        jinja__fail(vm, "'format' has a conversion that is not supported");
        return;
    }
    jval value;
    jstring *name = jinja__part(vm, inside, 0, bang),
            *form = jinja__part(vm, inside, colon + 1, inside->len);
    if (name == NULL || form == NULL || !field_value(vm, call, name, next, &value)) return;
    if (bang < colon && !repr) value = jinja__of_string(jinja__str(vm, value));
    if (!vm->failed) write_formatted(vm, out, value, form, repr);
}

jval jinja__str_format(jvm *vm, jval self, const jcall *call) {
    const jstring *text = self.string;
    if (!jinja__check_plain(vm, text, call->name)) return jinja__undefined(NULL);
    jwriter *out = jinja__new_writer(vm, 0);
    size_t kept = 0, next = 0;
    for (size_t at = 0; at < text->len && jinja__work(vm, 0); at++) {
        char ch = text->bytes[at];
        if (ch != '{' && ch != '}') continue;
        jinja__write_part(vm, out, text, kept, at);
        kept = ++at;
        if (at < text->len && text->bytes[at] == ch) continue; /* "{{" prints "{" */
        size_t end = ch == '{' ? jinja__find(text, at, "}", 1) : SIZE_MAX;
        if (end == SIZE_MAX)
            return jinja__fail(vm, "'format' has a bracket without its other half");
        jstring *inside = jinja__part(vm, text, at, end);
        if (inside) field(vm, out, inside, call, &next);
        kept = end + 1;
        at = end;
    }
    jinja__write_part(vm, out, text, kept, text->len);
    return jinja__of_string(jinja__written(vm, out));
}
