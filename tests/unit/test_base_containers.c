/* test_base_containers.c - lists inside structs, and the map of 64-bit keys. */
#include "base/hash.h"
#include "base/list.h"
#include "base/map.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(base_list, .fini = fail_on_leaks);
TestSuite(base_map, .fini = fail_on_leaks);

typedef struct {
    int before; /* keeps the link from being the first member */
    list_link link;
} item;

static void expect_order(const list_link *head, const int *want, size_t n) {
    const list_link *at = head;
    for (size_t i = 0; i < n; i++) {
        at = at->next;
        cr_assert_eq(OWNER_OF((uintptr_t)at, item, link)->before, want[i], "place %zu", i);
        cr_assert_eq(at->next->prev, at);
    }
    cr_assert_eq(at->next, head);
}

Test(base_list, members_stand_in_the_order_they_were_put) {
    list_link head;
    list_init(&head);
    cr_expect(list_empty(&head));
    item items[4] = {{.before = 0}, {.before = 1}, {.before = 2}, {.before = 3}};
    for (int i = 0; i < 3; i++)
        list_insert_before(&head, &items[i].link);
    expect_order(&head, (int[]){0, 1, 2}, 3);
    list_insert_before(&items[1].link, &items[3].link);
    expect_order(&head, (int[]){0, 3, 1, 2}, 4);
    list_move_back(&head, &items[0].link);
    expect_order(&head, (int[]){3, 1, 2, 0}, 4);
    cr_expect_not(list_empty(&head));
}

Test(base_list, a_link_may_be_removed_twice_and_used_again) {
    list_link head;
    item one = {.before = 1}, two = {.before = 2};
    list_init(&head);
    list_insert_before(&head, &one.link);
    list_insert_before(&head, &two.link);
    list_remove(&one.link);
    list_remove(&one.link);
    expect_order(&head, (int[]){2}, 1);
    list_move_back(&head, &one.link); /* from no list */
    expect_order(&head, (int[]){2, 1}, 2);
    list_remove(&two.link);
    list_remove(&one.link);
    cr_expect(list_empty(&head));
}

Test(base_map, an_empty_map_has_no_key) {
    map table = {0};
    cr_expect_eq(map_get(&table, 0), MAP_NONE);
    map_drop(&table, 7);
    map_deinit(&table);
}

Test(base_map, zero_is_a_key_and_a_second_put_replaces) {
    map table = {0};
    cr_assert_eq(map_reserve(&table, 2), 0);
    map_put(&table, 0, 5);
    map_put(&table, 0, 6);
    cr_expect_eq(map_get(&table, 0), 6);
    cr_expect_eq(table.n, 1);
    map_drop(&table, 0);
    cr_expect_eq(map_get(&table, 0), MAP_NONE);
    cr_expect_eq(table.n, 0);
    map_deinit(&table);
    cr_expect_eq(map_get(&table, 0), MAP_NONE);
}

/* Keys from a small range collide and wrap around the table's end. A plain array gives the expected
 * result. */
Test(base_map, random_puts_and_drops_agree_with_an_array) {
    enum { KEYS = 512, STEPS = 200000 };
    static uint64_t want[KEYS];
    map table = {0};
    size_t held = 0;
    for (size_t i = 0; i < KEYS; i++)
        want[i] = MAP_NONE;
    for (uint64_t step = 1; step <= STEPS; step++) {
        uint64_t random = hash_mix(step * HASH_STEP), key = random % KEYS;
        if (random >> 32 & 1) {
            cr_assert_eq(map_reserve(&table, 1), 0);
            map_put(&table, key, step);
            held += want[key] == MAP_NONE;
            want[key] = step;
        } else {
            map_drop(&table, key);
            held -= want[key] != MAP_NONE;
            want[key] = MAP_NONE;
        }
        cr_assert_eq(table.n, held);
        uint64_t other = (random >> 40) % KEYS;
        cr_assert_eq(map_get(&table, other), want[other], "step %llu", (unsigned long long)step);
    }
    for (uint64_t i = 0; i < KEYS; i++)
        cr_assert_eq(map_get(&table, i), want[i]);
    map_deinit(&table);
}

Test(base_map, a_reservation_that_cannot_be_met_changes_nothing) {
    map table = {0};
    cr_assert_eq(map_reserve(&table, 1), 0);
    map_put(&table, 3, 4);
    cr_expect_eq(map_reserve(&table, SIZE_MAX), -1);
    cr_expect_eq(map_reserve(&table, SIZE_MAX / 2), -1);
    cr_expect_eq(map_get(&table, 3), 4);
    map_deinit(&table);
}
