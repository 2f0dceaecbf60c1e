/* What folds opens where it must, and downloads are saved. */
"use strict";

{
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

  /* Sources and notebooks are saved, not shown as text. */
  document.addEventListener("DOMContentLoaded", () => {
    for (const link of document.querySelectorAll("a.btn-download-source-button, a.btn-download-notebook-button")) {
      link.download = "";
    }
  });
}
