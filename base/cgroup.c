/* cgroup.c - finds this process's control groups and reads their limits and their ancestors'.
 *
 * /proc/self/cgroup names a group; /proc/self/mountinfo lists the mounted parts of the hierarchy
 * and their paths. In a container the two may disagree: the mount may begin at the container's own
 * group (a bind mount, "root" below), or the name may lead out of a cgroup namespace ("/../x"). */
#include "base/cgroup.h"
#include "base/buf.h"
#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROC_BYTES = 1 << 20, MAX_VALUE_BYTES = 1 << 14, MAX_PATH = 4096 };

typedef enum { V2, V1_CPU, V1_MEMORY, HIERARCHIES } hierarchy;
static const char *const controllers[HIERARCHIES] = {"", "cpu", "memory"};

/* How much of a group's path a mount shows. */
typedef enum {
    FIT_NONE,
    FIT_ELSEWHERE, /* another part of the hierarchy, or a part without a name here */
    FIT_PART,      /* the group, and the ancestors up to the mount's root */
    FIT_ALL,       /* the group and every ancestor */
} fit;

typedef struct {
    char group[MAX_PATH]; /* as /proc/self/cgroup names it; "" = not in this hierarchy */
    char top[MAX_PATH];   /* mount point of the hierarchy; "" = not mounted */
    char below[MAX_PATH]; /* from the mount point to the group, "" or "/a/b" */
    fit fit;
} place;

/* ---- text ---- */

/* Cuts the next word off *at, in place; "" at the end. */
static char *word(char **at) {
    char *start = *at + strspn(*at, " \n");
    char *end = start + strcspn(start, " \n");
    *at = *end ? end + 1 : end;
    *end = 0;
    return start;
}

static bool list_has(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; *at;) {
        size_t len = strcspn(at, ",");
        if (len == n && memcmp(at, name, n) == 0) return true;
        at += len + (at[len] == ',');
    }
    return false;
}

/* The kernel writes space, tab, newline and backslash as \040 and the like. */
static void unescape(char *text) {
    char *to = text;
    for (; *text; text++) {
        bool octal = text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' &&
                     text[2] <= '7' && text[3] >= '0' && text[3] <= '7';
        if (octal) {
            *to++ = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
            text += 3;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
}

/* False if text is too long: a cut path would name another group. */
static bool copy(char out[MAX_PATH], const char *text) {
    size_t n = strlen(text);
    if (n >= MAX_PATH) return false;
    memcpy(out, text, n + 1);
    return true;
}

/* The rest of path below root, "" or "/a"; NULL if path is not at or below it. */
static const char *below(const char *path, const char *root) {
    if (strcmp(root, "/") == 0) root = "";
    size_t n = strlen(root);
    if (strncmp(path, root, n) != 0 || (path[n] != 0 && path[n] != '/')) return NULL;
    return strcmp(path + n, "/") == 0 ? "" : path + n;
}

/* ---- /proc/self ---- */

static int read_proc(buf *text, const char *root, const char *name) {
    char path[MAX_PATH];
    int n = snprintf(path, sizeof path, "%s/proc/self/%s", root, name);
    if (n < 0 || (size_t)n >= sizeof path) return -1;
    return file_read(text, path, MAX_PROC_BYTES, NULL);
}

/* Lines "number:controllers:group"; version 2 is "0::group". */
static void read_groups(place places[HIERARCHIES], char *text) {
    for (char *line = text, *next; *line; line = next) {
        size_t len = strcspn(line, "\n");
        next = line + len + (line[len] == '\n');
        line[len] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (group == NULL || group[1] != '/') continue;
        *group++ = 0;
        names++;
        for (int version = 0; version < HIERARCHIES; version++) {
            bool ours = version == V2 ? names[0] == 0 && strcmp(line, "0:") == 0
                                      : list_has(names, controllers[version]);
            if (ours && !copy(places[version].group, group)) places[version].group[0] = 0;
        }
    }
}

/* A path with "/.." leads out of the namespace and is below no mount. */
static bool has_way_up(const char *path) {
    for (const char *at = path; (at = strstr(at, "/..")) != NULL; at += 3) {
        if (at[3] == 0 || at[3] == '/') return true;
    }
    return false;
}

/* One mount of the hierarchy; a later mount at the same place hides an earlier one. */
static void consider(place *at, const char *mount_root, const char *mount_point) {
    const char *rest =
        has_way_up(at->group) || has_way_up(mount_root) ? NULL : below(at->group, mount_root);
    fit found = rest == NULL ? FIT_ELSEWHERE : strcmp(mount_root, "/") == 0 ? FIT_ALL : FIT_PART;
    bool over = strcmp(at->top, mount_point) == 0;
    if (at->group[0] == 0 || (found < at->fit && !over)) return;
    if (!copy(at->top, mount_point) || !copy(at->below, rest ? rest : "")) return;
    at->fit = found;
}

/* Lines "id parent dev root point options [tags] - type source options". */
static void read_mounts(place places[HIERARCHIES], char *text) {
    for (char *line = text, *next; *line; line = next) {
        size_t len = strcspn(line, "\n");
        next = line + len + (line[len] == '\n');
        line[len] = 0;
        char *rest = strstr(line, " - ");
        if (rest == NULL) continue;
        *rest = 0;
        rest += 3;
        char *at = line;
        for (int i = 0; i < 3; i++)
            (void)word(&at);
        char *mount_root = word(&at), *mount_point = word(&at);
        char *type = word(&rest);
        (void)word(&rest);
        char *options = word(&rest);
        unescape(mount_root);
        unescape(mount_point);
        if (strcmp(type, "cgroup2") == 0) consider(&places[V2], mount_root, mount_point);
        if (strcmp(type, "cgroup") != 0) continue;
        for (int version = V1_CPU; version < HIERARCHIES; version++) {
            if (list_has(options, controllers[version]))
                consider(&places[version], mount_root, mount_point);
        }
    }
}

/* ---- limits ---- */

/* Reads a whole number above 0; false for anything else: "max", -1, words, more than 64 bits. */
static bool whole(const char *text, uint64_t *out) {
    char *end;
    if (text[0] < '0' || text[0] > '9') return false;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0 || *end != 0 || n == 0) return false;
    *out = n;
    return true;
}

/* Reads a file of one group into text, owned by the caller. */
static bool read_value(buf *text, const char *group, const char *name) {
    char path[2 * MAX_PATH];
    int n = snprintf(path, sizeof path, "%s/%s", group, name);
    buf_clear(text);
    return n > 0 && (size_t)n < sizeof path && file_read(text, path, MAX_VALUE_BYTES, NULL) == 0;
}

static void lower_cpus(cgroup_limits *limits, uint64_t quota_us, uint64_t period_us) {
    double cpus = (double)quota_us / (double)period_us;
    if (limits->cpus == 0 || cpus < limits->cpus) limits->cpus = cpus;
}

static void lower_memory(cgroup_limits *limits, const char *text) {
    uint64_t bytes;
    /* version 1 writes "no limit" as the largest value of its page counter */
    if (!whole(text, &bytes) || bytes >= UINT64_C(1) << 62) return;
    if (limits->memory == 0 || bytes < limits->memory) limits->memory = bytes;
}

/* A file with one number. */
static bool read_number(buf *text, const char *group, const char *name, uint64_t *out) {
    if (!read_value(text, group, name)) return false;
    char *at = text->data;
    return whole(word(&at), out);
}

static void read_v2(cgroup_limits *limits, const char *group, buf *text) {
    static const char *const files[] = {"memory.max", "memory.high"};
    uint64_t quota, period;
    if (read_value(text, group, "cpu.max")) {
        char *at = text->data, *first = word(&at);
        if (whole(first, &quota) && whole(word(&at), &period)) lower_cpus(limits, quota, period);
    }
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        if (!read_value(text, group, files[i])) continue;
        char *at = text->data;
        lower_memory(limits, word(&at));
    }
}

static void read_v1_cpu(cgroup_limits *limits, const char *group, buf *text) {
    uint64_t quota, period;
    if (read_number(text, group, "cpu.cfs_quota_us", &quota) &&
        read_number(text, group, "cpu.cfs_period_us", &period)) {
        lower_cpus(limits, quota, period);
    }
}

/* memory.stat includes the limits of ancestors outside the mount. */
static void read_v1_memory(cgroup_limits *limits, const char *group, buf *text) {
    if (read_value(text, group, "memory.limit_in_bytes")) {
        char *at = text->data;
        lower_memory(limits, word(&at));
    }
    if (!read_value(text, group, "memory.stat")) return;
    for (char *at = text->data, *key = word(&at); *key; key = word(&at)) {
        char *value = word(&at);
        if (strcmp(key, "hierarchical_memory_limit") == 0) lower_memory(limits, value);
    }
}

/* Reads the group and its ancestors, up to the mount point. */
static void climb(cgroup_limits *limits, const char *root, const place *from,
                  void (*read_one)(cgroup_limits *limits, const char *group, buf *text)) {
    char group[3 * MAX_PATH];
    if (from->fit == FIT_NONE) return;
    const char *top = strcmp(from->top, "/") == 0 ? "" : from->top;
    int n = snprintf(group, sizeof group, "%s%s", root, top);
    if (n < 0 || (size_t)n + strlen(from->below) >= sizeof group) return;
    size_t shortest = (size_t)n;
    memcpy(group + n, from->below, strlen(from->below) + 1);
    buf text = {0};
    for (;;) {
        read_one(limits, group, &text);
        char *slash = strrchr(group, '/');
        if (slash == NULL || (size_t)(slash - group) < shortest) break;
        *slash = 0;
    }
    buf_deinit(&text);
}

void cgroup_read(cgroup_limits *out, const char *root) {
    *out = (cgroup_limits){0};
    buf groups = {0}, mounts = {0};
    place *places = calloc(HIERARCHIES, sizeof *places);
    if (places && read_proc(&groups, root, "cgroup") == 0 &&
        read_proc(&mounts, root, "mountinfo") == 0) {
        read_groups(places, groups.data);
        read_mounts(places, mounts.data);
        climb(out, root, &places[V2], read_v2);
        climb(out, root, &places[V1_CPU], read_v1_cpu);
        climb(out, root, &places[V1_MEMORY], read_v1_memory);
    }
    free(places);
    buf_deinit(&mounts);
    buf_deinit(&groups);
}
