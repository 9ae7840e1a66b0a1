// Asks again and again while the page is visible.

/**
 * look() asks once and returns the ms until the next time, or null to stop. The poller then
 * stays silent, whatever the page does, until wake() is called: a refused key is not tried again.
 */
export function poller(look) {
    let timer = 0;
    let stopped = false;
    let looking = false;
    async function turn() {
        clearTimeout(timer);
        if (looking || stopped || document.visibilityState === "hidden") return;
        looking = true;
        const wait = await look().finally(() => (looking = false));
        stopped = wait === null;
        clearTimeout(timer);
        if (!stopped) timer = setTimeout(turn, wait);
    }
    document.addEventListener("visibilitychange", turn);
    return {
        wake() {
            stopped = false;
            void turn();
        },
    };
}

/** Waits that grow from 2 to 16 seconds while a server cannot be reached. */
export function backoff() {
    let wait = 1000;
    return {
        next: () => (wait = Math.min(16000, wait * 2)),
        reset: () => (wait = 1000),
    };
}
