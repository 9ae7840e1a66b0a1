/* trial.c - see trial.h. The paths are made in advance, because a signal handler may only use
 * them. */
#include "cli/init/trial.h"

#include "base/buf.h"

#include <signal.h>
#include <unistd.h>

enum { FOLDER, FIRST_FILE, N_PATHS = 5 };
static const char *const tails[N_PATHS] = {"", "/config.json", "/config.json.part",
                                           "/model.safetensors", "/model.safetensors.part"};
static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

static struct {
    buf paths[N_PATHS];
    struct sigaction before[ARRAY_LEN(signals)];
} trial;

const char *trial_dir(void) {
    return trial.paths[FOLDER].data;
}

/* Also called by a signal handler. A file that is not there is no failure. */
void trial_remove(void) {
    for (int i = FIRST_FILE; i < N_PATHS; i++)
        (void)unlink(trial.paths[i].data);
    (void)rmdir(trial.paths[FOLDER].data);
}

static void on_signal(int signum) {
    trial_remove();
    (void)signal(signum, SIG_DFL);
    (void)raise(signum);
}

static void free_paths(void) {
    for (int i = 0; i < N_PATHS; i++)
        buf_deinit(&trial.paths[i]);
}

int trial_begin(const char *dir, err *e) {
    bool whole = true;
    for (int i = 0; i < N_PATHS; i++) {
        buf_printf(&trial.paths[i], "%s.fathom-trial%s", dir, tails[i]);
        whole = whole && !trial.paths[i].failed;
    }
    if (!whole) {
        free_paths();
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    }
    trial_remove();
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        struct sigaction on = {.sa_handler = on_signal};
        sigemptyset(&on.sa_mask);
        (void)sigaction(signals[i], NULL, &trial.before[i]);
        if (trial.before[i].sa_handler != SIG_IGN) (void)sigaction(signals[i], &on, NULL);
    }
    return 0;
}

void trial_end(void) {
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        (void)sigaction(signals[i], &trial.before[i], NULL);
    trial_remove();
    free_paths();
}
