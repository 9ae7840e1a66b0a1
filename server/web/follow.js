// A box that keeps its newest text in sight until its reader scrolls up.
const NEAR = 40; // pixels from the end that count as the end

/** Wraps the scrolling element. Returns {box, moved}: moved() is to be called after text was added. */
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
    const fromEnd = () => element.scrollHeight - element.clientHeight - element.scrollTop;
    function settle() {
        due = false;
        if (following) element.scrollTop = element.scrollHeight;
        jump.hidden = following || fromEnd() < NEAR;
    }
    function moved() {
        if (due) return;
        due = true;
        requestAnimationFrame(settle);
    }
    element.addEventListener("scroll", () => {
        following = fromEnd() < NEAR;
        jump.hidden = following;
    });
    jump.addEventListener("click", () => {
        following = true;
        settle();
        element.focus({ preventScroll: true });
    });
    return { box, moved };
}
