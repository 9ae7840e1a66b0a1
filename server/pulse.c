/* pulse.c - decides when a silent engine is dead.
 *
 * Wall time cannot decide: in a stopped process (SIGSTOP, a freezer, a snapshot of its machine) or
 * on an overloaded machine, everything is silent. So silence counts only while the loop is awake. A
 * tick adds the time since the last tick, at most one tick's length; a tick after a pause adds 0. A
 * pause does not reset the count, so a hanging engine is found even if the machine pauses often. */
#include "server/server_internal.h"

enum { STEPS_OF_PATIENCE = 20, STRIKES = 2 };

static const uint64_t tick_ns = SRV_TICK_MS * UINT64_C(1000000);

uint64_t srv_pulse_overslept(srv_pulse *pulse, uint64_t now) {
    uint64_t late = pulse->due_ns && now > pulse->due_ns ? now - pulse->due_ns : 0;
    if (late < tick_ns) return 0;
    pulse->due_ns = now;
    pulse->paused = true;
    return late;
}

static uint64_t patience_ns(uint64_t usual_ns, uint64_t hang_ns) {
    uint64_t steps =
        usual_ns < UINT64_MAX / STEPS_OF_PATIENCE ? usual_ns * STEPS_OF_PATIENCE : UINT64_MAX;
    return steps > hang_ns ? steps : hang_ns;
}

bool srv_pulse_tick(srv_pulse *pulse, uint64_t now, uint64_t beat_ns, uint64_t usual_ns,
                    uint64_t hang_ns) {
    uint64_t since = beat_ns != pulse->beat_ns ? beat_ns : pulse->seen_ns;
    uint64_t passed = now > since ? now - since : 0;
    bool paused = pulse->paused;
    if (beat_ns != pulse->beat_ns) pulse->silent_ns = 0;
    if (!paused) pulse->silent_ns += passed < tick_ns ? passed : tick_ns;
    pulse->paused = false;
    pulse->beat_ns = beat_ns;
    pulse->seen_ns = now;
    pulse->due_ns = now + tick_ns;
    bool silent = !paused && pulse->silent_ns > patience_ns(usual_ns, hang_ns);
    pulse->strikes = silent ? pulse->strikes + 1 : 0;
    return pulse->strikes >= STRIKES;
}
