/* inspect_ranks.c - see inspect_ranks.h. */
#include "cli/inspect_ranks.h"
#include "base/json.h"
#include "cli/describe.h"

#include <math.h>

/* Rows under way at once, over all ranks. */
static const uint32_t rows[] = {1, 32, 128, 512};

static double weights_of(const rank_plan *rp) {
    return rank_plan_whole(rp) + rank_plan_divided(rp, rp->widest);
}

/* The same model on one device. */
static rank_plan alone(const rank_plan *rp) {
    rank_plan one;
    rank_plan_make(&one, rp->plan, &rp->device, 1, rp->context, rp->weight_bytes);
    return one;
}

/* ---- text ---- */

static const char *bytes_text(char out[32], double bytes) {
    return describe_scaled(out, (uint64_t)(bytes + 0.5), "B");
}

static void put_title(buf *out, const rank_plan *rp, const char *name, double depth) {
    const rank_device *device = &rp->device;
    char number[32];
    buf_printf(out, "%s on %u rank%s of %s", name, rp->ranks, rp->ranks == 1 ? "" : "s",
               device->name);
    if (device->memory_gb > 0)
        buf_printf(out, " (%s of memory)", bytes_text(number, device->memory_gb * 1e9));
    buf_printf(out,
               ": computed, not measured\n  %g GB/s, %g TFLOP/s, %g GB/s between ranks; a row "
               "attends to %s positions, a token runs %g loops\n",
               device->read_gbs, device->tflops, device->link_gbs,
               describe_number(number, rp->context), depth);
}

static void put_fit(buf *out, const rank_plan *rp, double depth) {
    uint32_t least = rank_plan_least(rp);
    double positions = rank_plan_positions(rp, RANK_COLUMNS, depth);
    char weights[32], states[32], all[32], number[32] = "no";
    if (rp->device.memory_gb == 0) {
        buf_printf(out, "  %-22s %12s   --device-memory tells\n", "fits", "?");
        return;
    }
    if (positions >= 1) describe_number(number, (uint64_t)positions);
    buf_printf(out, "  %-22s %12s   %s of weights and %s for rows, in %s, leave %s position%s\n",
               "fits", rank_plan_fits(rp) ? "yes" : "no", bytes_text(weights, weights_of(rp)),
               bytes_text(states, RANK_PLAN_ROWS * rank_plan_row(rp)),
               bytes_text(all, rp->device.memory_gb * 1e9), number, positions >= 1 ? "s" : "");
    if (least) buf_printf(out, "  %-22s %12u\n", "fewest ranks that fit", least);
    else buf_printf(out, "  %-22s %12s\n", "fewest ranks that fit", "over 64");
}

static void put_memory(buf *out, const rank_plan *rp, double depth) {
    rank_plan one = alone(rp);
    char own[32], all[32];
    buf_printf(out, "\na rank holds\n  %-22s %12s   of %s: feed-forward%s and untied head\n",
               "divided weights", bytes_text(own, rank_plan_divided(rp, rp->widest)),
               bytes_text(all, rank_plan_divided(&one, 0)),
               rp->plan->core_ffn == FFN_MOE ? ", experts" : "");
    buf_printf(out, "  %-22s %12s   attention, embedding, norms, loop\n", "undivided weights",
               bytes_text(own, rank_plan_whole(rp)));
    buf_printf(out, "  %-22s %12s   at %g loops\n", "cache of a position",
               bytes_text(own, rank_plan_position(rp, depth)), depth);
    buf_printf(out, "  %-22s %12s   %d of them\n", "memory of a row",
               bytes_text(own, rank_plan_row(rp)), RANK_PLAN_ROWS);
    put_fit(out, rp, depth);
}

static void put_rows(buf *out, const char *title) {
    buf_printf(out, "\n%-24s", title);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        buf_printf(out, " %9u", rows[i]);
    buf_puts(out, " rows\n");
}

/* A figure for each number of rows: of a loop, or of all its tokens. */
typedef enum { WEIGHT_GB, CACHE_GB, LOOP_US, TOKENS_PER_S } figure;

static double figure_of(const rank_plan *rp, rank_split split, figure wanted, uint32_t n,
                        double depth) {
    rank_cost loop = rank_plan_loop(rp, split, n);
    switch (wanted) {
    case WEIGHT_GB: return loop.weight_bytes / 1e9;
    case CACHE_GB: return loop.cache_bytes / 1e9;
    case LOOP_US: return loop.us;
    default: return rank_plan_tokens_per_s(rp, split, n, depth);
    }
}

static void put_line(buf *out, const rank_plan *rp, const char *name, rank_split split,
                     figure wanted, double depth) {
    buf_printf(out, "  %-22s", name);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char number[32];
        double value = figure_of(rp, split, wanted, rows[i], depth);
        if (!rank_plan_holds(rp, split, rows[i], depth)) buf_printf(out, " %9s", "-");
        else if (wanted == LOOP_US || value >= 1000)
            buf_printf(out, " %9s", describe_number(number, (uint64_t)(value + 0.5)));
        else buf_printf(out, " %9.3g", value);
    }
    buf_puts(out, "\n");
}

static void put_reads(buf *out, const rank_plan *rp, double depth) {
    put_rows(out, "a loop reads, GB");
    put_line(out, rp, "weights", RANK_COLUMNS, WEIGHT_GB, depth);
    if (rp->ranks == 1) {
        put_line(out, rp, "cache", RANK_COLUMNS, CACHE_GB, depth);
        return;
    }
    put_line(out, rp, "cache, by columns", RANK_COLUMNS, CACHE_GB, depth);
    put_line(out, rp, "cache, by sequences", RANK_SEQUENCES, CACHE_GB, depth);
}

static void put_exchanges(buf *out, const rank_plan *rp) {
    const uint32_t many = rows[ARRAY_LEN(rows) - 1];
    char size[32];
    if (rp->ranks == 1) return;
    buf_printf(out, "\n%-24s %9s %12s\n", "a loop exchanges", "exchanges", "bytes a row");
    for (int i = 0; i < RANK_REPLICAS; i++) {
        rank_cost loop = rank_plan_loop(rp, (rank_split)i, many);
        buf_printf(out, "  %-22s %9u %12s\n", rank_split_name((rank_split)i), loop.exchanges,
                   bytes_text(size, loop.received / many));
    }
}

static void put_splits(buf *out, const rank_plan *rp, const char *title, figure wanted,
                       double depth) {
    rank_plan one = alone(rp);
    put_rows(out, title);
    put_line(out, &one, "one rank", RANK_COLUMNS, wanted, depth);
    if (rp->ranks == 1) return;
    for (int i = 0; i < RANK_SPLITS; i++)
        put_line(out, rp, rank_split_name((rank_split)i), (rank_split)i, wanted, depth);
}

void inspect_ranks_text(buf *out, const rank_plan *rp, const char *name, double depth) {
    put_title(out, rp, name, depth);
    put_memory(out, rp, depth);
    put_exchanges(out, rp);
    if (!rank_plan_holds(rp, RANK_SEQUENCES, 1, depth)) return;
    put_reads(out, rp, depth);
    put_splits(out, rp, "a loop takes, us", LOOP_US, depth);
    put_splits(out, rp, "tokens/s", TOKENS_PER_S, depth);
    if (rp->ranks > 1)
        buf_puts(out,
                 "  (columns and sequences give the bits of one rank; ordered sum is for CUDA, "
                 "sequences with sums are not built)\n");
    buf_puts(out, "  (-: weights and the cache of so many rows do not fit)\n");
}

/* ---- json ---- */

/* A number of JSON; null for one that is not known. */
static void put_number(buf *out, const char *key, double value) {
    if (isfinite(value)) buf_printf(out, "\"%s\":%.10g,", key, value);
    else buf_printf(out, "\"%s\":null,", key);
}

static void json_memory(buf *out, const rank_plan *rp, double depth) {
    uint32_t least = rank_plan_least(rp);
    bool known = rp->device.memory_gb > 0;
    buf_puts(out, "\"memory\":{\"divided_bytes\":[");
    for (uint32_t rank = 0; rank < rp->ranks; rank++)
        buf_printf(out, "%s%.0f", rank ? "," : "", rank_plan_divided(rp, rank));
    buf_puts(out, "],");
    put_number(out, "undivided_bytes", rank_plan_whole(rp));
    put_number(out, "bytes_per_row", rank_plan_row(rp));
    put_number(out, "bytes_per_position", rank_plan_position(rp, depth));
    put_number(out, "positions", rank_plan_positions(rp, RANK_COLUMNS, depth));
    buf_printf(out, "\"fits\":%s,", !known ? "null" : rank_plan_fits(rp) ? "true" : "false");
    if (known && least) buf_printf(out, "\"fewest_ranks\":%u},", least);
    else buf_puts(out, "\"fewest_ranks\":null},");
}

static void json_split(buf *out, const rank_plan *rp, rank_split split, double depth) {
    buf_printf(out, "\"%s\":[", rank_split_key(split));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        rank_cost loop = rank_plan_loop(rp, split, rows[i]);
        buf_printf(out, "%s{\"rows\":%u,\"fits\":%s,\"exchanges\":%u,", i ? "," : "", rows[i],
                   rank_plan_holds(rp, split, rows[i], depth) ? "true" : "false", loop.exchanges);
        put_number(out, "received_bytes", loop.received);
        put_number(out, "weight_bytes", loop.weight_bytes);
        put_number(out, "cache_bytes", loop.cache_bytes);
        put_number(out, "loop_us", loop.us);
        put_number(out, "ends_us", rank_plan_ends(rp, split, rows[i]).us);
        buf_printf(out, "\"tokens_per_s\":%.10g}",
                   rank_plan_tokens_per_s(rp, split, rows[i], depth));
    }
    buf_puts(out, "]");
}

void inspect_ranks_json(buf *out, const rank_plan *rp, const char *name, double depth) {
    const rank_device *device = &rp->device;
    buf_puts(out, "{\"model\":");
    buf_json_text(out, name);
    buf_printf(out, ",\"ranks\":%u,\"context\":%u,\"mean_depth\":%.9g,", rp->ranks, rp->context,
               depth);
    buf_printf(out, "\"device\":{\"name\":\"%s\",", device->name);
    put_number(out, "memory_bytes", device->memory_gb > 0 ? device->memory_gb * 1e9 : NAN);
    put_number(out, "read_gb_per_s", device->read_gbs);
    put_number(out, "tflop_per_s", device->tflops);
    put_number(out, "link_gb_per_s", device->link_gbs);
    put_number(out, "exchange_us", device->exchange_us);
    buf_printf(out, "\"layer_us\":%.10g},", device->layer_us);
    json_memory(out, rp, depth);
    buf_puts(out, "\"splits\":{");
    for (int i = 0; i < RANK_SPLITS; i++) {
        if (i) buf_puts(out, ",");
        json_split(out, rp, (rank_split)i, depth);
    }
    buf_puts(out, "}}\n");
}
