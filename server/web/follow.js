// A box that keeps its newest text in sight until its reader scrolls up.
const NEAR = 40; // pixels from the end that count as the end

/**
 * Wraps the scrolling element. Returns {box, moved, restart}: moved() is to be
 * called after text was added, restart() at the beginning of an answer.
 */
export function follow(element) {
    const box = document.createElement("div");
    box.className = "follow";
    const jump = document.createElement("button");
    jump.type = "button";
    jump.className = "jump";
    jump.textContent = "Jump to newest ↓";
    jump.hidden = true;
    element.replaceWith(box);
    box.append(element, jump);

    let following = true;
    let due = false;
    let at = 0; // where the box was scrolled to, as far as is known
    const fromEnd = () => element.scrollHeight - element.clientHeight - element.scrollTop;
    function settle() {
        due = false;
        if (following) element.scrollTop = element.scrollHeight;
        at = element.scrollTop;
        jump.hidden = following || fromEnd() < NEAR;
    }
    function moved() {
        if (due) return;
        due = true;
        requestAnimationFrame(settle);
    }
    element.addEventListener("scroll", () => {
        // Text that came since the last frame also moves the end away; only the reader scrolls up.
        if (fromEnd() < NEAR) following = true;
        else if (element.scrollTop < at - 1) following = false;
        at = element.scrollTop;
        jump.hidden = following;
    });
    jump.addEventListener("click", () => {
        following = true;
        settle(); // at once: the button goes, so the focus needs a place
        element.focus({ preventScroll: true });
    });
    function restart() {
        following = true;
        at = 0;
        moved();
    }
    return { box, moved, restart };
}
