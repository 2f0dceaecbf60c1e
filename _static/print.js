/* For paper: light colors, open folds, and nothing wider than the page; afterwards all is as before. */
"use strict";

{
  const PAPER = 660; // CSS pixels between the margins of A4 and Letter, the narrower of the two
  const NUMBER = 60; // on each side of a formula, so that the number of its equation has room
  const undo = [];

  const prepare = () => {
    if (undo.length) return;
    const root = document.documentElement;
    const theme = root.dataset.theme;
    root.dataset.theme = "light";
    undo.push(() => { root.dataset.theme = theme; });

    for (const fold of document.querySelectorAll("article details:not([open])")) {
      fold.open = true;
      undo.push(() => { fold.open = false; });
    }
    for (const wide of document.querySelectorAll("article :is(table, mjx-container[display='true'] > mjx-math)")) {
      const room = wide.matches("table") ? PAPER : PAPER - 2 * NUMBER;
      if (wide.scrollWidth > room) {
        wide.style.zoom = room / wide.scrollWidth;
        undo.push(() => { wide.style.zoom = ""; });
      }
    }
  };

  const restore = () => {
    while (undo.length) undo.pop()();
  };

  window.addEventListener("beforeprint", prepare);
  window.addEventListener("afterprint", restore);
}
