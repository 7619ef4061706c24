"use strict";

// A browser may keep a page that was left in memory and show it again on "back", whatever
// Cache-Control says. What it keeps must not hold the key.
window.addEventListener("pagehide", () => {
    const shown = document.getElementById("new-api-key");
    if (shown) {
        shown.textContent = "This key is not shown again.";
    }
});
