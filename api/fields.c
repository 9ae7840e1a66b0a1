/* fields.c - reads typed values by the tables of fields.
 *
 * null means absent. A known field with a wrong type or a value outside its range is refused by
 * name. */
#include "api/dialect_internal.h"

#define AT(member) (uint16_t) offsetof(api__values, member)
#define BOOL(member, group, default_on, text)                                                      \
    {.name = #member,                                                                              \
     .about = text,                                                                                \
     .groups = group,                                                                              \
     .type = API__BOOL,                                                                            \
     .on = default_on,                                                                             \
     .offset = AT(member)},
#define RANGED(member, group, kind, least, most, open, text)                                       \
    {.name = #member,                                                                              \
     .about = text,                                                                                \
     .groups = group,                                                                              \
     .type = kind,                                                                                 \
     .above = open,                                                                                \
     .min = least,                                                                                 \
     .max = most,                                                                                  \
     .offset = AT(member)},
#define INT(member, group, least, most, text)                                                      \
    RANGED(member, group, API__INT, least, most, false, text)
#define NUM(member, group, least, most, text)                                                      \
    RANGED(member, group, API__NUM, least, most, false, text)
#define ABOVE(member, group, least, most, text)                                                    \
    RANGED(member, group, API__NUM, least, most, true, text)
#define STR(member, group, most, text) RANGED(member, group, API__STR, 0, most, false, text)
#define JSON(member, group, text) RANGED(member, group, API__JSON, 0, 0, false, text)
#define REFUSED(field, group) {.name = #field, .groups = group, .type = API__REFUSED},

const api__field api__shared_fields[] = {
#include "api/fields.def"
};
const size_t api__n_shared_fields = ARRAY_LEN(api__shared_fields);

const api__field *api__next_field(const api_dialect *dialect, size_t *at) {
    if (*at < dialect->n_fields) return &dialect->fields[(*at)++];
    while (*at - dialect->n_fields < api__n_shared_fields) {
        const api__field *field = &api__shared_fields[(*at)++ - dialect->n_fields];
        if (field->groups & dialect->groups) return field;
    }
    return NULL;
}

int api__bad_param(err *e, const char *param, const char *rule) {
    return err_set(e, ERR_BAD_PARAM, param, "%s %s", param, rule);
}

const json_t *api__member(const json_t *root, const char *key) {
    const json_t *value = json_object_get(root, key);
    return json_is_null(value) ? NULL : value;
}

int api__read_bool(const json_t *value, const char *param, bool *out, err *e) {
    if (value == NULL || json_is_null(value)) return 0;
    if (!json_is_boolean(value))
        return err_set(e, ERR_BAD_PARAM, param, "%s must be true or false", param);
    *out = json_is_true(value);
    return 0;
}

static bool is_whole(const json_t *value) {
    double x = json_real_value(value);
    return json_is_real(value) && floor(x) == x;
}

bool api__integer(const json_t *value, int64_t *out) {
    double x = json_real_value(value);
    *out = json_integer_value(value);
    if (json_is_integer(value)) return true;
    if (!is_whole(value) || x < -0x1p63 || x >= 0x1p63) return false;
    *out = (int64_t)x;
    return true;
}

int api__read_int(const json_t *value, const char *param, int64_t min, int64_t max, int64_t *out,
                  err *e) {
    if (value == NULL || json_is_null(value)) return 0;
    int64_t x;
    bool whole = api__integer(value, &x);
    if (!whole && !is_whole(value))
        return err_set(e, ERR_BAD_PARAM, param, "%s must be an integer", param);
    if (!whole || x < min || x > max) {
        if (whole && x < min && max >= INT32_MAX) {
            return err_set(e, ERR_BAD_PARAM, param, "%s must be at least %lld", param,
                           (long long)min);
        }
        return err_set(e, ERR_BAD_PARAM, param, "%s must be between %lld and %lld", param,
                       (long long)min, (long long)max);
    }
    *out = x;
    return 0;
}

int api__read_num(const json_t *value, const char *param, double min, bool above, double max,
                  double *out, err *e) {
    if (value == NULL || json_is_null(value)) return 0;
    if (!json_is_number(value))
        return err_set(e, ERR_BAD_PARAM, param, "%s must be a number", param);
    double x = json_number_value(value);
    if (!(x <= max) || !(above ? x > min : x >= min)) {
        if (above) {
            return err_set(e, ERR_BAD_PARAM, param, "%s must be above %g and at most %g", param,
                           min, max);
        }
        return err_set(e, ERR_BAD_PARAM, param, "%s must be between %g and %g", param, min, max);
    }
    *out = x;
    return 0;
}

static int read_str(const json_t *value, const api__field *field, const char **out, err *e) {
    if (!json_is_string(value))
        return err_set(e, ERR_BAD_PARAM, field->name, "%s must be a string", field->name);
    /* A suffix of any length has its own error. */
    if (field->max > 0 && (double)json_string_length(value) > field->max) {
        return err_set(e, ERR_BAD_PARAM, field->name, "%s may have at most %.0f bytes", field->name,
                       field->max);
    }
    *out = json_c_string(value);
    return *out ? 0 : api__bad_param(e, field->name, "may not contain U+0000");
}

/* Clients write an absent value in all these ways. */
static bool says_nothing(const json_t *value) {
    return json_is_false(value) || (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

static int read_field(void *out, const api__field *field, const json_t *value, err *e) {
    void *at = (char *)out + field->offset;
    switch ((api__type)field->type) {
    case API__BOOL: return api__read_bool(value, field->name, at, e);
    case API__NUM:
        return api__read_num(value, field->name, field->min, field->above, field->max, at, e);
    case API__STR: return read_str(value, field, at, e);
    case API__INT: {
        bool any = field->min >= field->max;
        return api__read_int(value, field->name, any ? INT64_MIN : (int64_t)field->min,
                             any ? INT64_MAX : (int64_t)field->max, at, e);
    }
    case API__JSON: *(const json_t **)at = value; return 0;
    case API__REFUSED:
        if (says_nothing(value)) return 0;
        return err_set(e, ERR_UNSUPPORTED, field->name, "this server does not support %s",
                       field->name);
    }
    return 0;
}

/* Values without a row's default are zero already. */
static void set_default(void *out, const api__field *field) {
    void *at = (char *)out + field->offset;
    if (field->type == API__BOOL) *(bool *)at = field->on;
    if (field->type == API__INT) *(int64_t *)at = API__NO_INT;
    if (field->type == API__NUM) *(double *)at = (double)NAN;
}

int api__read_fields(api__values *out, const api_dialect *dialect, const json_t *root, err *e) {
    const api__field *field;
    memset(out, 0, dialect->values_bytes);
    /* Shared code reads every shared field, also one that this dialect does not have. */
    for (size_t i = 0; i < api__n_shared_fields; i++)
        set_default(out, &api__shared_fields[i]);
    for (size_t i = 0; i < dialect->n_fields; i++)
        set_default(out, &dialect->fields[i]);
    for (size_t at = 0; (field = api__next_field(dialect, &at)) != NULL;) {
        const json_t *value = json_object_get(root, field->name);
        if (value == NULL || json_is_null(value)) continue;
        if (read_field(out, field, value, e) != 0) return -1;
    }
    return 0;
}
