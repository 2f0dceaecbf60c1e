/* What folds opens where it must: for a link that leads into it, and for printing. */
"use strict";

/* The place that the address names may be inside folded parts: open them, and go there. */
const openForAddress = () => {
  const id = decodeURIComponent(window.location.hash.slice(1));
  const place = id && document.getElementById(id);
  if (!place) return;
  let opened = false;
  for (let part = place; part; part = part.parentElement) {
    if (part.matches("details:not([open])")) opened = part.open = true;
  }
  if (opened) place.scrollIntoView();
};

document.addEventListener("DOMContentLoaded", openForAddress);
window.addEventListener("hashchange", openForAddress);
