/* cgroup.c - finds this process's control groups and reads the limits on the way to the top.
 *
 * /proc/self/cgroup names a group, /proc/self/mountinfo says which part of the hierarchy is
 * mounted where. In a container they need not agree: the mount may begin at the container's own
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

/* How well a mount shows a group. */
typedef enum {
    FIT_NONE,
    FIT_ELSEWHERE, /* another part of the hierarchy, or one that has no name here */
    FIT_PART,      /* the group, and the ancestors up to the mount's root */
    FIT_ALL,       /* the group and every ancestor */
} fit;

typedef struct {
    char group[MAX_PATH]; /* as /proc/self/cgroup names it; "" = not in this hierarchy */
    char top[MAX_PATH];   /* where the hierarchy is mounted; "" = nowhere */
    char below[MAX_PATH]; /* from there to the group, "" or "/a/b" */
    fit fit;
} place;

/* ---- text ---- */

/* Takes the next word off *at, in place; "" at the end. */
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
static void unescape(char *s) {
    char *to = s;
    for (; *s; s++) {
        bool octal = s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
                     s[3] >= '0' && s[3] <= '7';
        if (octal) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
}

/* Copies what fits whole; a path that does not is no path. */
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
        for (int h = 0; h < HIERARCHIES; h++) {
            bool ours = h == V2 ? names[0] == 0 && strcmp(line, "0:") == 0
                                : list_has(names, controllers[h]);
            if (ours && !copy(places[h].group, group)) places[h].group[0] = 0;
        }
    }
}

/* A name out of the namespace is no way down from any mount. */
static bool has_way_up(const char *path) {
    for (const char *at = path; (at = strstr(at, "/..")) != NULL; at += 3) {
        if (at[3] == 0 || at[3] == '/') return true;
    }
    return false;
}

/* One mount of the hierarchy; a later mount at the same place hides an earlier one. */
static void consider(place *p, const char *mount_root, const char *mount_point) {
    const char *rest =
        has_way_up(p->group) || has_way_up(mount_root) ? NULL : below(p->group, mount_root);
    fit f = rest == NULL ? FIT_ELSEWHERE : strcmp(mount_root, "/") == 0 ? FIT_ALL : FIT_PART;
    bool over = strcmp(p->top, mount_point) == 0;
    if (p->group[0] == 0 || (f < p->fit && !over)) return;
    if (!copy(p->top, mount_point) || !copy(p->below, rest ? rest : "")) return;
    p->fit = f;
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
        for (int h = V1_CPU; h < HIERARCHIES; h++) {
            if (list_has(options, controllers[h])) consider(&places[h], mount_root, mount_point);
        }
    }
}

/* ---- limits ---- */

/* A whole number above 0 and nothing else; false for "max", -1, words, and what no counter holds.
 */
static bool whole(const char *text, uint64_t *out) {
    char *end;
    if (text[0] < '0' || text[0] > '9') return false;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0 || *end != 0 || n == 0) return false;
    *out = n;
    return true;
}

/* The words of a file in one group; the caller owns text, which holds them. */
static bool read_value(buf *text, const char *group, const char *name) {
    char path[2 * MAX_PATH];
    int n = snprintf(path, sizeof path, "%s/%s", group, name);
    buf_clear(text);
    return n > 0 && (size_t)n < sizeof path && file_read(text, path, MAX_VALUE_BYTES, NULL) == 0;
}

static void lower_cpus(cgroup_limits *l, uint64_t quota_us, uint64_t period_us) {
    double cpus = (double)quota_us / (double)period_us;
    if (l->cpus == 0 || cpus < l->cpus) l->cpus = cpus;
}

static void lower_memory(cgroup_limits *l, const char *text) {
    uint64_t bytes;
    /* version 1 writes "no limit" as the most that its counter of pages holds */
    if (!whole(text, &bytes) || bytes >= UINT64_C(1) << 62) return;
    if (l->memory == 0 || bytes < l->memory) l->memory = bytes;
}

/* One number in a file of its own. */
static bool read_number(buf *text, const char *group, const char *name, uint64_t *out) {
    if (!read_value(text, group, name)) return false;
    char *at = text->data;
    return whole(word(&at), out);
}

static void read_v2(cgroup_limits *l, const char *group, buf *text) {
    static const char *const files[] = {"memory.max", "memory.high"};
    uint64_t quota, period;
    if (read_value(text, group, "cpu.max")) {
        char *at = text->data, *first = word(&at);
        if (whole(first, &quota) && whole(word(&at), &period)) lower_cpus(l, quota, period);
    }
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        if (!read_value(text, group, files[i])) continue;
        char *at = text->data;
        lower_memory(l, word(&at));
    }
}

static void read_v1_cpu(cgroup_limits *l, const char *group, buf *text) {
    uint64_t quota, period;
    if (read_number(text, group, "cpu.cfs_quota_us", &quota) &&
        read_number(text, group, "cpu.cfs_period_us", &period)) {
        lower_cpus(l, quota, period);
    }
}

/* memory.stat knows of ancestors that are not mounted here. */
static void read_v1_memory(cgroup_limits *l, const char *group, buf *text) {
    if (read_value(text, group, "memory.limit_in_bytes")) {
        char *at = text->data;
        lower_memory(l, word(&at));
    }
    if (!read_value(text, group, "memory.stat")) return;
    for (char *at = text->data, *key = word(&at); *key; key = word(&at)) {
        char *value = word(&at);
        if (strcmp(key, "hierarchical_memory_limit") == 0) lower_memory(l, value);
    }
}

/* The group and its ancestors, up to where the hierarchy is mounted. */
static void climb(cgroup_limits *l, const char *root, const place *p,
                  void (*read_one)(cgroup_limits *l, const char *group, buf *text)) {
    char group[3 * MAX_PATH];
    if (p->fit == FIT_NONE) return;
    const char *top = strcmp(p->top, "/") == 0 ? "" : p->top;
    int n = snprintf(group, sizeof group, "%s%s", root, top);
    if (n < 0 || (size_t)n + strlen(p->below) >= sizeof group) return;
    size_t shortest = (size_t)n;
    memcpy(group + n, p->below, strlen(p->below) + 1);
    buf text = {0};
    for (;;) {
        read_one(l, group, &text);
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
