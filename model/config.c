/* config.c - config.json: finds its family and reads its keys with checks. */
#include "base/log.h"
#include "base/model_json.h"
#include "model/model_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX_BYTES = 1 << 20, MAX_SLOT_VALUES = 1 << 26 };

/* One row per family: model/families/NAME.c defines model__NAME. */
#define FAMILIES(ROW)                                                                              \
    ROW(openmythos)                                                                                \
    ROW(ouro)                                                                                      \
    ROW(huginn)                                                                                    \
    ROW(retrofitted)                                                                               \
    ROW(nanbeige)                                                                                  \
    ROW(parcae)                                                                                    \
    ROW(fathom_plan)

#define ROW(name) extern const model_family model__##name;
FAMILIES(ROW)
#undef ROW

#define ROW(name) &model__##name,
static const model_family *const families[] = {FAMILIES(ROW)};
#undef ROW

/* ---- keys ---- */

int model__config_bad(const model__config *config, const char *key, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)err_vset_in(config->err, ERR_BAD_FILE, key, config->what, fmt, args);
    va_end(args);
    return -1;
}

const json_t *model__config_look(const model__config *config, const char *key) {
    if (config->unread) json_object_del(config->unread, key);
    return json_object_get(config->root, key);
}

void model__config_ignore(const model__config *config, const char *key) {
    (void)model__config_look(config, key);
}

const json_t *model__config_get(const model__config *config, const char *key) {
    const json_t *value = model__config_look(config, key);
    if (value == NULL) model__config_bad(config, key, "key \"%s\" is missing", key);
    return value;
}

bool model__config_has(const model__config *config, const char *key) {
    const json_t *value = model__config_look(config, key);
    return value && !json_is_null(value);
}

static const char *kind_of(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_NULL: return "null";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    default: return "true or false";
    }
}

int model__config_whole(const model__config *config, const char *key, uint32_t min, uint32_t max,
                        uint32_t *out) {
    const json_t *value = model__config_get(config, key);
    if (value == NULL) return -1;
    if (json_is_real(value)) {
        return model__config_bad(config, key, "%s is %g, expected a whole number", key,
                                 json_real_value(value));
    }
    if (!json_is_integer(value)) {
        return model__config_bad(config, key, "%s is %s, expected a whole number", key,
                                 kind_of(value));
    }
    json_int_t number = json_integer_value(value);
    if (number < (json_int_t)min || number > (json_int_t)max) {
        return model__config_bad(config, key, "%s is %lld, expected %u to %u", key,
                                 (long long)number, min, max);
    }
    *out = (uint32_t)number;
    return 0;
}

int model__config_real(const model__config *config, const char *key, double min, double max,
                       const char *rule, float *out) {
    const json_t *value = model__config_get(config, key);
    if (value == NULL) return -1;
    if (!json_is_number(value)) {
        return model__config_bad(config, key, "%s is %s, expected a number", key, kind_of(value));
    }
    double x = json_number_value(value);
    if (!(x >= min && x <= max)) { /* catches NaN too */
        return model__config_bad(config, key, "%s is %g, expected %s", key, x, rule);
    }
    *out = (float)x;
    return 0;
}

int model__config_choice(const model__config *config, const char *key, const char *const *names,
                         size_t n, int *out) {
    const json_t *value = model__config_get(config, key);
    if (value == NULL) return -1;
    const char *text = json_string_value(value);
    for (size_t i = 0; text && i < n; i++) {
        if (strcmp(text, names[i]) == 0) return *out = (int)i, 0;
    }
    char list[160] = "";
    size_t len = 0;
    for (size_t i = 0; i < n && len < sizeof list; i++) {
        int wrote = snprintf(list + len, sizeof list - len, "%s\"%s\"", i ? " or " : "", names[i]);
        len += wrote > 0 ? (size_t)wrote : 0;
    }
    if (text == NULL) {
        return model__config_bad(config, key, "%s is %s, expected %s", key, kind_of(value), list);
    }
    return model__config_bad(config, key, "%s is \"%.40s\", expected %s", key, text, list);
}

int model__config_flag(const model__config *config, const char *key, bool otherwise, bool *out) {
    const json_t *value = model__config_look(config, key);
    *out = otherwise;
    if (value == NULL || json_is_null(value)) return 0;
    if (!json_is_boolean(value)) {
        return model__config_bad(config, key, "%s is %s, expected true or false", key,
                                 kind_of(value));
    }
    *out = json_is_true(value);
    return 0;
}

int model__config_only_text(const model__config *config, const char *key, const char *text) {
    const json_t *value = model__config_look(config, key);
    if (value == NULL || json_is_null(value)) return 0;
    const char *is = json_string_value(value);
    if (is == NULL) {
        return model__config_bad(config, key, "%s is %s, expected \"%s\"", key, kind_of(value),
                                 text);
    }
    if (strcmp(is, text) == 0) return 0;
    return model__config_bad(
        config, key, "%s is \"%.40s\"; Fathom knows only \"%s\" for this family", key, is, text);
}

int model__config_only_false(const model__config *config, const char *key) {
    bool set;
    if (model__config_flag(config, key, false, &set) != 0) return -1;
    if (!set) return 0;
    return model__config_bad(config, key, "%s is true; Fathom does not know it for this family",
                             key);
}

int model__config_absent(const model__config *config, const char *key) {
    if (!model__config_has(config, key)) return 0;
    return model__config_bad(config, key, "%s is set; Fathom does not know it for this family",
                             key);
}

static void add_eos(const model__config *config, model_plan *plan, const json_t *value) {
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0 || id >= (json_int_t)plan->vocab_size) {
        log_line(LOG_WARN,
                 "%s: eos_token_id %.15g is outside the model's vocabulary of %u tokens; ignored",
                 config->what, json_number_value(value), plan->vocab_size);
        return;
    }
    plan->eos_ids[plan->n_eos++] = (uint32_t)id;
}

int model__config_eos(const model__config *config, model_plan *plan) {
    const json_t *value = model__config_look(config, "eos_token_id");
    size_t n = json_is_array(value) ? json_array_size(value) : value && !json_is_null(value);
    plan->n_eos = 0;
    if (n > PLAN_MAX_EOS) {
        return model__config_bad(config, "eos_token_id",
                                 "eos_token_id lists %zu ids, at most %d are read", n,
                                 PLAN_MAX_EOS);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_number(one)) {
            return model__config_bad(config, "eos_token_id",
                                     "eos_token_id holds %s, expected token ids", kind_of(one));
        }
        add_eos(config, plan, one);
    }
    return 0;
}

void model__write_eos(buf *out, const model_plan *plan) {
    for (uint32_t i = 0; i < plan->n_eos; i++)
        buf_printf(out, "%s%u%s", i ? ", " : "  \"eos_token_id\": [", plan->eos_ids[i],
                   i + 1 < plan->n_eos ? "" : "],\n");
}

void model__write_real(buf *out, const char *key, float value) {
    buf_printf(out, "  \"%s\": ", key);
    buf_json_float(out, value);
}

/* ---- the family ---- */

static void list_families(char *out, size_t n) {
    size_t len = 0;
    out[0] = 0;
    for (size_t i = 0; i < ARRAY_LEN(families) && len < n; i++) {
        int wrote = snprintf(out + len, n - len, "%s%s", i ? ", " : "", families[i]->name);
        len += wrote > 0 ? (size_t)wrote : 0;
    }
}

/* The model's class, for messages about a file without model_type; NULL = not given. */
static const char *class_named(const json_t *root) {
    const char *name = json_string_value(json_object_get(root, "_class_name"));
    if (name) return name;
    return json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
}

static const model_family *family_of(const model__config *config) {
    const json_t *value = model__config_look(config, "model_type");
    const char *type = json_string_value(value);
    /* OpenMythos' own training script writes no model_type. */
    if (value == NULL && json_object_get(config->root, "attn_type")) return &model__openmythos;
    for (size_t i = 0; type && i < ARRAY_LEN(families); i++) {
        if (strcmp(families[i]->model_type, type) == 0) return families[i];
    }
    const char *class = json_string_value(model__config_look(config, "_class_name"));
    for (size_t i = 0; value == NULL && class && i < ARRAY_LEN(families); i++) {
        const char *own = families[i]->class_name;
        if (own && strcmp(own, class) == 0) return families[i];
    }
    char list[160];
    list_families(list, sizeof list);
    if (value == NULL) {
        const char *says = class_named(config->root);
        model__config_bad(config, "model_type",
                          "key \"model_type\" is missing%s%.40s%s; Fathom runs looped models: %s",
                          says ? " (the file is a " : "", says ? says : "", says ? ")" : "", list);
    } else if (type == NULL) {
        model__config_bad(config, "model_type", "model_type is %s, expected a string",
                          kind_of(value));
    } else {
        model__config_bad(config, "model_type",
                          "model_type is '%.40s'; Fathom runs looped models: %s", type, list);
    }
    return NULL;
}

/* ---- the whole file ---- */

/* Backends multiply the slot size, so it needs a limit. No known model comes near this one. */
static int check_slot(const model__config *config, const model_plan *plan) {
    uint64_t layer = plan->attn == ATTN_GQA ? 2 * (uint64_t)plan->n_kv_heads * plan->head_dim
                                            : (uint64_t)plan->kv_lora_rank + plan->qk_rope_head_dim;
    if (layer * plan->n_core <= MAX_SLOT_VALUES) return 0;
    return model__config_bad(config, NULL,
                             "one loop of one position would cache %llu values; the limit is %d",
                             (unsigned long long)(layer * plan->n_core), MAX_SLOT_VALUES);
}

int plan_parse(model_plan *out, const char *text, size_t n, const char *what, err *e) {
    static const json_limits limits = {
        .max_bytes = CONFIG_MAX_BYTES, .max_depth = 16, .max_structural = 100000};
    *out = (model_plan){0};
    json_t *root;
    err why = {0};
    if (model_json_parse(&root, text, n, &limits, what, &why) != 0) {
        return err_set(e, why.code == ERR_BAD_PARAM ? ERR_BAD_FILE : why.code, NULL, "%s", why.msg);
    }
    model__config config = {root, what, e, NULL};
    model_plan plan = {0};
    int rc = -1;
    if (!json_is_object(root)) {
        model__config_bad(&config, NULL, "the text is %s, expected an object", kind_of(root));
        goto done;
    }
    config.unread = model__config_keys(root);
    if (config.unread == NULL) {
        err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory", what);
        goto done;
    }
    plan.family = family_of(&config);
    if (plan.family == NULL || plan.family->read(&config, &plan) != 0 ||
        check_slot(&config, &plan) != 0 || model__config_eos(&config, &plan) != 0 ||
        model__config_refuse_unread(&config) != 0) {
        goto done;
    }
    plan_derive(&plan);
    *out = plan;
    rc = 0;
done:
    json_decref(config.unread);
    json_decref(root);
    return rc;
}

void plan_write(buf *out, const model_plan *plan, const char *dtype) {
    plan->family->write(out, plan, dtype);
}

void plan_write_fields(buf *out, const model_plan *plan) {
    model__fathom_plan.write(out, plan, "float32");
}

/* ---- variants ---- */

static const model__variant *variant_at(size_t i, const model_family **family) {
    for (size_t at = 0; at < ARRAY_LEN(families); at++) {
        *family = families[at];
        if (i < families[at]->n_variants) return &families[at]->variants[i];
        i -= families[at]->n_variants;
    }
    return NULL;
}

const char *plan_variant_name(size_t i) {
    const model_family *family;
    const model__variant *variant = variant_at(i, &family);
    return variant ? variant->name : NULL;
}

int plan_variant(model_plan *out, const char *name, err *e) {
    const model_family *family;
    const model__variant *variant;
    buf names = {0};
    for (size_t i = 0; (variant = variant_at(i, &family)) != NULL; i++) {
        if (strcmp(variant->name, name) == 0) {
            buf_deinit(&names);
            *out = variant->plan;
            out->family = family;
            family->complete(out);
            plan_derive(out);
            return 0;
        }
        buf_printf(&names, "%s%s", i ? " " : "", variant->name);
    }
    *out = (model_plan){0};
    err_set(e, ERR_NOT_FOUND, "variant", "no variant \"%.40s\"; there are: %s", name,
            names.data ? names.data : "");
    buf_deinit(&names);
    return -1;
}
