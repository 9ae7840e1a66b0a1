/* progress.c - see progress.h. */
#include "base/progress.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/terminal.h"

#include <string.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)
enum {
    REDRAWS_PER_SECOND = 5,
    SECONDS_PER_LINE = 10,
    LEAST_BAR = 10, /* a shorter bar shows nothing */
    MOST_BAR = 40,
};
#define COLOUR "\x1b[36m" /* cyan */
#define PLAIN "\x1b[0m"
#define ERASE "\r\x1b[K"

static atomic_bool into_log;

void progress_into_log(void) {
    atomic_store(&into_log, true);
}

void progress_start_at(progress *self, const progress_place *place, const char *what,
                       const char *unit, uint64_t total) {
    self->place = place;
    self->what = what;
    self->unit = unit;
    self->total = total;
    self->started_ns = place->now_ns();
    self->drawn = false;
    atomic_init(&self->done, 0);
    atomic_init(&self->next_ns,
                self->started_ns + (place->terminal ? 1 : SECONDS_PER_LINE) * SECOND);
    atomic_flag_clear(&self->drawing);
}

void progress_start(progress *self, const char *what, const char *unit, uint64_t total) {
    bool terminal = terminal_is(STDERR_FILENO);
    self->own = (progress_place){.to = terminal || !atomic_load(&into_log) ? stderr : NULL,
                                 .terminal = terminal,
                                 .colour = terminal_has_colours(STDERR_FILENO),
                                 .now_ns = clock_ns};
    progress_start_at(self, &self->own, what, unit, total);
}

/* ---- the texts ---- */

static void add_amount(buf *out, const progress *self, uint64_t n) {
    if (self->unit) buf_printf(out, "%llu", (unsigned long long)n);
    else
        buf_printf(out, "%.*f", self->total >= SECOND ? 1 : 0,
                   (double)n / (self->total >= SECOND ? 1e9 : 1e6));
}

static void add_unit(buf *out, const progress *self) {
    buf_printf(out, " %s", self->unit ? self->unit : self->total >= SECOND ? "GB" : "MB");
}

/* "of 5.2 GB" */
static void add_total(buf *out, const progress *self) {
    buf_puts(out, "of ");
    add_amount(out, self, self->total);
    add_unit(out, self);
}

static void add_rate(buf *out, const progress *self, double per_second) {
    if (self->unit == NULL)
        buf_printf(out, "%.*f MB/s", per_second < 1e7 ? 1 : 0, per_second / 1e6);
    else buf_printf(out, per_second < 10 ? "%.1f %s/s" : "%.0f %s/s", per_second, self->unit);
}

static void add_left(buf *out, double seconds) {
    if (seconds < 60) buf_printf(out, "%.0f s left", seconds < 1 ? 1 : seconds);
    else if (seconds < 3600) buf_printf(out, "%.0f min left", seconds / 60);
    else buf_printf(out, "%.1f h left", seconds / 3600);
}

/* ", 8 s left" follows the separator; nothing while the rate is unknown. */
static void add_estimate(buf *out, const progress *self, uint64_t done, double per_second,
                         const char *before) {
    if (per_second <= 0 || done >= self->total) return;
    buf_puts(out, before);
    add_left(out, (double)(self->total - done) / per_second);
}

static void add_bar(buf *out, const progress_place *place, double share, size_t width) {
    size_t filled = (size_t)(share * (double)width);
    buf_printf(out, "[%s", place->colour ? COLOUR : "");
    for (size_t i = 0; i < width; i++) {
        if (i == filled && place->colour) buf_puts(out, PLAIN);
        buf_puts(out, i < filled ? "=" : i == filled ? ">" : " ");
    }
    buf_printf(out, "%s] ", place->colour && filled >= width ? PLAIN : "");
}

/* Rounded down: 100 % means that nothing is left. */
static unsigned percent(double share) {
    return (unsigned)(100 * share);
}

/* ---- drawing ---- */

static void draw_bar(progress *self, uint64_t done, double share, double per_second) {
    const progress_place *place = self->place;
    size_t columns = place->columns ? place->columns : terminal_columns(fileno(place->to));
    buf out = {0}, tail = {0};
    buf_printf(&tail, "%3u %% ", percent(share));
    add_amount(&tail, self, done);
    buf_puts(&tail, " ");
    add_total(&tail, self);
    if (per_second > 0) {
        buf_puts(&tail, "  ");
        add_rate(&tail, self, per_second);
    }
    add_estimate(&tail, self, done, per_second, "  ");
    /* The last column stays free: some terminals wrap when it is filled. */
    size_t taken = strlen(self->what) + 1 + strlen("[] ") + tail.len + 1;
    size_t room = columns > taken ? columns - taken : 0;
    buf_printf(&out, ERASE "%s ", self->what);
    size_t start = strlen(ERASE);
    if (room >= LEAST_BAR) add_bar(&out, place, share, room < MOST_BAR ? room : MOST_BAR);
    buf_append(&out, tail.data, tail.len);
    if (room < LEAST_BAR && columns > 0 && out.len - start > columns - 1)
        out.len = start + columns - 1;
    if (!out.failed && !tail.failed) {
        if (place->to == stderr) log_over_bar(true);
        fwrite(out.data, 1, out.len, place->to);
        fflush(place->to);
        self->drawn = true;
    }
    buf_deinit(&out);
    buf_deinit(&tail);
}

static void write_line(const progress *self, uint64_t done, double share, double per_second) {
    buf out = {0};
    buf_printf(&out, "%s: %u %% ", self->what, percent(share));
    add_total(&out, self);
    add_estimate(&out, self, done, per_second, ", ");
    if (!out.failed) {
        if (self->place->to == NULL) log_line(LOG_INFO, "%s", out.data);
        else fprintf(self->place->to, "fathom: %s\n", out.data);
    }
    buf_deinit(&out);
}

static void show(progress *self, uint64_t now) {
    uint64_t done = atomic_load(&self->done), elapsed = now - self->started_ns;
    if (done > self->total) done = self->total;
    double share = self->total ? (double)done / (double)self->total : 0;
    double per_second = elapsed ? (double)done * (double)SECOND / (double)elapsed : 0;
    if (self->place->terminal) draw_bar(self, done, share, per_second);
    else write_line(self, done, share, per_second);
}

static void show_if_due(progress *self) {
    uint64_t now = self->place->now_ns();
    if (now < atomic_load_explicit(&self->next_ns, memory_order_relaxed)) return;
    if (atomic_flag_test_and_set(&self->drawing)) return; /* another thread draws */
    uint64_t pause =
        self->place->terminal ? SECOND / REDRAWS_PER_SECOND : SECONDS_PER_LINE * SECOND;
    if (now >= atomic_load(&self->next_ns)) {
        show(self, now);
        atomic_store(&self->next_ns, now + pause);
    }
    atomic_flag_clear(&self->drawing);
}

void progress_add(progress *self, uint64_t n) {
    atomic_fetch_add_explicit(&self->done, n, memory_order_relaxed);
    show_if_due(self);
}

void progress_set(progress *self, uint64_t done) {
    atomic_store_explicit(&self->done, done, memory_order_relaxed);
    show_if_due(self);
}

void progress_stop(progress *self) {
    if (!self->drawn) return;
    self->drawn = false;
    fputs(ERASE, self->place->to);
    fflush(self->place->to);
    if (self->place->to == stderr) log_over_bar(false);
}
