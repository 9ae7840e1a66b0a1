/* test_srv_pulse.c - the silence after which an engine counts as dead, in ticks. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>

TestSuite(srv_pulse, .fini = fail_on_leaks);

static const uint64_t ms = 1000000, sec = 1000000000;

/* A loop and an engine in made-up time. */
typedef struct {
    srv_pulse pulse;
    uint64_t now, beat, usual, hang, forgiven;
    bool dead;
} world;

static world world_of(uint64_t hang) {
    world sim = {.now = 5 * sec, .beat = 5 * sec, .hang = hang};
    (void)srv_pulse_tick(&sim.pulse, sim.now, sim.beat, 0, hang);
    return sim;
}

/* One tick, `passed` ns after the last. beats: the engine beat 1 ms before the tick. */
static bool tick(world *sim, uint64_t passed, bool beats) {
    sim->now += passed;
    if (beats) sim->beat = sim->now - ms;
    sim->forgiven += srv_pulse_overslept(&sim->pulse, sim->now);
    sim->dead = srv_pulse_tick(&sim->pulse, sim->now, sim->beat, sim->usual, sim->hang);
    return sim->dead;
}

/* Ticks of one second until the engine counts as dead; 0 = not within 10,000. */
static unsigned ticks_to_death(world *sim) {
    for (unsigned n = 1; n <= 10000; n++) {
        if (tick(sim, sec, false)) return n;
    }
    return 0;
}

Test(srv_pulse, a_silent_engine_is_dead_one_tick_after_its_bound) {
    static const struct {
        uint64_t hang, usual;
        unsigned ticks;
    } rows[] = {
        {30 * sec, 0, 32},
        {30 * sec, 10 * ms, 32},
        {30 * sec, 1500 * ms, 32},
        {30 * sec, 2 * sec, 42},
        {1 * sec, 0, 3},
        {1 * sec, 40 * ms, 3},
        {100 * ms, 0, 2},
        {1 * sec, 5 * sec, 102},
        {30 * sec, UINT64_MAX, 0},
        {30 * sec, UINT64_MAX / 20, 0},
        {30 * sec, UINT64_MAX / 20 + 1, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        world sim = world_of(rows[i].hang);
        sim.usual = rows[i].usual;
        unsigned n = ticks_to_death(&sim);
        cr_assert_eq(n, rows[i].ticks, "row %zu: %u ticks", i, n);
        cr_assert_eq(sim.forgiven, 0);
    }
}

Test(srv_pulse, an_engine_that_beats_is_never_dead) {
    world sim = world_of(100 * ms);
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_not(tick(&sim, sec, true));
}

Test(srv_pulse, silence_must_be_seen_in_two_ticks_in_a_row) {
    world sim = world_of(100 * ms);
    for (unsigned i = 0; i < 1000; i++) { /* every second tick finds it silent for a second */
        cr_assert_not(tick(&sim, sec, false));
        cr_assert_not(tick(&sim, sec, true));
    }
}

Test(srv_pulse, a_pause_of_any_length_is_forgiven) {
    static const uint64_t pauses[] = {2100, 3000, 31000, 3600000, 86400000}; /* ms */
    for (size_t i = 0; i < ARRAY_LEN(pauses); i++) {
        world sim = world_of(1 * sec);
        (void)tick(&sim, sec, true);
        cr_assert_not(tick(&sim, pauses[i] * ms, false));
        cr_assert_eq(sim.forgiven, (pauses[i] - 1000) * ms, "the lateness, not the tick");
        cr_assert_not(tick(&sim, sec, false), "the engine too may need a moment");
        cr_assert_not(tick(&sim, sec, true));
    }
}

Test(srv_pulse, lateness_below_a_tick_is_no_pause) {
    world sim = world_of(30 * sec);
    (void)tick(&sim, 1999 * ms, false);
    cr_assert_eq(sim.forgiven, 0);
}

Test(srv_pulse, a_pause_noticed_between_ticks_is_forgiven_once) {
    world sim = world_of(1 * sec);
    uint64_t late = srv_pulse_overslept(&sim.pulse, sim.now + 61 * sec);
    cr_assert_eq(late, 60 * sec);
    cr_assert_eq(srv_pulse_overslept(&sim.pulse, sim.now + 61 * sec + ms), 0);
    cr_assert_not(tick(&sim, 61 * sec + 2 * ms, false));
    cr_assert_eq(sim.forgiven, 0, "the tick after it does not count the pause again");
}

Test(srv_pulse, an_engine_that_hangs_is_found_though_the_machine_pauses_often) {
    world sim = world_of(30 * sec);
    unsigned ticks = 0;
    while (!sim.dead && ticks < 1000) {
        ticks++;
        (void)tick(&sim, ticks % 5 == 0 ? 60 * sec : sec, false);
    }
    /* 31 s of silence seen in ticks; every fifth tick does not count. */
    cr_assert(ticks >= 32 && ticks <= 45, "%u ticks", ticks);
}

Test(srv_pulse, a_loop_that_is_starved_itself_does_not_blame_the_engine) {
    world sim = world_of(30 * sec);
    for (unsigned i = 0; i < 25; i++) /* 47 s in ticks of 1.9 s, each counted as one */
        cr_assert_not(tick(&sim, 1900 * ms, false));
    sim = world_of(30 * sec);
    for (unsigned i = 0; i < 10000; i++) /* every tick is too late to count */
        cr_assert_not(tick(&sim, 5 * sec, i % 100 == 99));
}
