/* test_srv_kv_batch.c - a batch of KV events, byte by byte, as vLLM's encoder writes it. */
#include "server/kv_events_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(srv_kv_batch, .fini = fail_on_leaks);

/* Tokens from `first` on, upwards. */
static kv_event stored(uint64_t hash, uint64_t parent, uint32_t first) {
    kv_event event = {.kind = KV_STORED, .hash = hash, .parent = parent};
    for (uint32_t i = 0; i < ENG_BLOCK; i++)
        event.tokens[i] = first + i;
    return event;
}

#define HEAD "\x93\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00" /* [1.0, ... */
#define STORED                                                                                     \
    "\x98\xab"                                                                                     \
    "BlockStored"
#define REMOVED                                                                                    \
    "\x93\xac"                                                                                     \
    "BlockRemoved"
#define CLEARED                                                                                    \
    "\x91\xb0"                                                                                     \
    "AllBlocksCleared"
#define HASH(digit) "\xcf\x00\x00\x00\x00\x00\x00\x00" digit
#define AFTER "\x20\xc0\xa3GPU\xc0" /* 32 tokens a block, no LoRA id, the tier, no LoRA name */
#define TAIL "\x00"                 /* data_parallel_rank */

static void expect(const kv_event *events, uint32_t n, const char *want, size_t n_want) {
    buf out = {0};
    srv_kv_batch(&out, events, n, 1.0);
    cr_assert(!out.failed);
    cr_expect(out.len == n_want && memcmp(out.data, want, n_want) == 0, "%zu bytes instead of %zu",
              out.len, n_want);
    buf_deinit(&out);
}
#define EXPECT(events, n, want) expect(events, n, want, sizeof(want) - 1)

#define TOKENS_0                                                                                   \
    "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"                             \
    "\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"
#define TOKENS_64                                                                                  \
    "\x40\x41\x42\x43\x44\x45\x46\x47\x48\x49\x4a\x4b\x4c\x4d\x4e\x4f"                             \
    "\x50\x51\x52\x53\x54\x55\x56\x57\x58\x59\x5a\x5b\x5c\x5d\x5e\x5f"

Test(srv_kv_batch, the_first_block_of_a_prompt_has_no_parent) {
    kv_event event = stored(1, 0, 0);
    EXPECT(&event, 1,
           HEAD "\x91" STORED "\x91" HASH("\x01") "\xc0\xdc\x00\x20" TOKENS_0 AFTER TAIL);
}

Test(srv_kv_batch, blocks_that_follow_each_other_share_an_event) {
    const kv_event events[] = {stored(2, 1, 0), stored(3, 2, 64), stored(5, 4, 0)};
    EXPECT(events, 3,
           HEAD "\x92" STORED "\x92" HASH("\x02") HASH("\x03")
               HASH("\x01") "\xdc\x00\x40" TOKENS_0 TOKENS_64 AFTER STORED "\x91" HASH("\x05")
                   HASH("\x04") "\xdc\x00\x20" TOKENS_0 AFTER TAIL);
}

Test(srv_kv_batch, removals_in_a_row_share_an_event_and_clearing_stands_alone) {
    const kv_event events[] = {{.kind = KV_REMOVED, .hash = 7},
                               {.kind = KV_REMOVED, .hash = 8},
                               {.kind = KV_CLEARED},
                               {.kind = KV_CLEARED},
                               {.kind = KV_REMOVED, .hash = 9}};
    EXPECT(events, 5,
           HEAD "\x94" REMOVED "\x92" HASH("\x07") HASH("\x08") "\xa3GPU" CLEARED CLEARED REMOVED
                                                                "\x91" HASH("\x09") "\xa3GPU" TAIL);
}
