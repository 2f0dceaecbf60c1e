/* Previews: what a link leads to, shown beside it for the pointer, the keyboard and the finger. The page has the texts. */
"use strict";

{
  const OPEN = 250, CLOSE = 250; // ms for which a pointer must rest, and in which it may reach the preview
  const EDGE = 12; // CSS pixels between a preview and the edge of the window

  const element = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });

  /* A formula of this page, as it is drawn there, or null. */
  const formula = (address) => {
    const place = address.startsWith("#") && document.getElementById(decodeURIComponent(address.slice(1)));
    const drawn = place && place.matches("div.math") && place.querySelector("mjx-container");
    return drawn ? drawn.cloneNode(true) : null;
  };

  const fill = (box, shown, drawn, touched) => {
    const parts = [];
    if (shown?.title) parts.push(element("p", "preview-title", shown.title));
    if (shown?.image) parts.push(Object.assign(element("img"), { src: shown.image, alt: shown.alt ?? "" }));
    if (shown?.text) parts.push(element("p", "preview-text", shown.text));
    if (drawn) parts.push(drawn);
    if (touched) parts.push(element("p", "preview-hint", "Tap the link again to go there."));
    box.replaceChildren(...parts);
  };

  /* Below the link, or above it where there is more room. */
  const place = (box, link) => {
    const line = link.getClientRects()[0];
    if (!line) return;
    const below = window.innerHeight - line.bottom, left = Math.min(line.left, window.innerWidth - box.offsetWidth - EDGE);
    const above = below < box.offsetHeight + EDGE && line.top > below;
    box.style.left = `${Math.max(left, EDGE)}px`;
    box.style.top = `${Math.max(above ? line.top - box.offsetHeight - 4 : line.bottom + 4, EDGE)}px`;
  };

  const startPreviews = () => {
    const article = document.querySelector("article.bd-article");
    if (!article || !("popover" in HTMLElement.prototype)) return;
    const known = JSON.parse(document.getElementById("previews")?.textContent ?? "{}");
    const box = Object.assign(element("div", "preview"), { id: "preview", popover: "manual" });
    box.setAttribute("role", "tooltip");
    article.append(box);
    let open = null, timer = 0, pointer = "mouse", seen = false; // seen: the link has been on the screen since

    const linkAt = (target) => {
      const link = target instanceof Element && target.closest("a.reference.internal");
      const address = link && article.contains(link) && link.getAttribute("href");
      return address && (known[address] || formula(address)) ? link : null;
    };
    const close = () => {
      clearTimeout(timer);
      if (!open) return;
      open.removeAttribute("aria-describedby");
      open = null;
      box.hidePopover();
    };
    /* A page that scrolls may take the link off the screen; one that gets the focus comes onto it. */
    const follow = () => {
      if (!open) return;
      const { top, bottom } = open.getBoundingClientRect();
      const inside = bottom > 0 && top < window.innerHeight;
      seen ||= inside;
      if (seen && !inside) close();
      else place(box, open);
    };
    const show = (link, touched = false) => {
      clearTimeout(timer);
      if (open === link) return;
      close();
      open = link;
      const address = link.getAttribute("href");
      fill(box, known[address], known[address] ? null : formula(address), touched);
      link.removeAttribute("title"); // the browser would show it as well
      link.setAttribute("aria-describedby", box.id);
      box.showPopover();
      seen = false;
      follow();
      const image = box.querySelector("img");
      if (image) image.addEventListener("load", () => { if (open === link) place(box, link); });
    };
    const later = (act, wait) => {
      clearTimeout(timer);
      timer = setTimeout(act, wait);
    };

    document.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "mouse") return;
      const link = linkAt(event.target);
      if (link) later(() => show(link), open ? 0 : OPEN);
      else if (open && box.contains(event.target)) clearTimeout(timer);
      else later(close, CLOSE);
    });
    document.addEventListener("pointerdown", (event) => { pointer = event.pointerType; }, true);
    document.addEventListener("focusin", (event) => {
      const link = linkAt(event.target);
      if (link && link.matches(":focus-visible")) show(link);
    });
    document.addEventListener("focusout", (event) => { if (event.target === open) close(); });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
    document.addEventListener("click", (event) => {
      const link = linkAt(event.target);
      const tapped = link && pointer === "touch" && event.detail > 0 && link !== open; // Enter clicks as well: detail 0
      if (tapped) {
        event.preventDefault();
        show(link, true);
      } else close();
    });
    for (const moves of ["scroll", "resize"]) {
      window.addEventListener(moves, follow, { capture: true, passive: true });
    }
  };
  document.addEventListener("DOMContentLoaded", startPreviews);
}
