// Runs before the first paint, so that a remembered theme never flashes.
"use strict";
try {
    const theme = localStorage.getItem("fathom-theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
    // Storage is off: the system's preference decides.
}
