/* A figure fills the window: by a click on it, or by its button. Escape, the button and a click beside it close it. */
"use strict";

{
  const PICTURES = "article.bd-article :is(figure, .cell_output, a.image-reference, p) img";
  const make = (tag, className, attributes = {}) => {
    const element = Object.assign(document.createElement(tag), { className });
    for (const [name, text] of Object.entries(attributes)) element.setAttribute(name, text);
    return element;
  };

  /* What is below a figure, without the sign that links to it. */
  const captionOf = (picture) => {
    const caption = picture.closest("figure")?.querySelector("figcaption")?.cloneNode(true);
    caption?.querySelectorAll(".headerlink").forEach((sign) => sign.remove());
    caption?.querySelectorAll("[id]").forEach((part) => part.removeAttribute("id"));
    return caption ?? null;
  };

  const buildDialog = () => {
    const dialog = make("dialog", "enlarged", { "aria-label": "Enlarged figure" });
    const close = make("button", "enlarged-close", { type: "button", "aria-label": "Close" });
    const room = make("div", "enlarged-room", { tabindex: "0", role: "group", "aria-label": "Figure" });
    const caption = make("div", "enlarged-caption");
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => { room.replaceChildren(); caption.replaceChildren(); });
    dialog.append(close, room, caption);
    document.body.append(dialog);
    return dialog;
  };

  const startEnlarging = () => {
    let dialog = null;

    const enlarge = (picture, button) => {
      dialog ??= buildDialog();
      const caption = captionOf(picture);
      const [room, below] = dialog.querySelectorAll(".enlarged-room, .enlarged-caption");
      const large = make("img", "", { src: picture.currentSrc || picture.src, alt: picture.alt });
      room.replaceChildren(large);
      below.replaceChildren(...(caption ? caption.childNodes : []));
      button.focus({ preventScroll: true }); // to which the focus returns
      dialog.showModal();
    };

    for (const picture of document.querySelectorAll(PICTURES)) {
      const link = picture.closest("a");
      if (link && !link.matches(".image-reference")) continue; // it leads somewhere
      const number = picture.closest("figure")?.querySelector(".caption-number")?.textContent.trim();
      const name = number ? `Enlarge ${number}` : "Enlarge the figure";
      const button = make("button", "enlarge", { type: "button", "aria-label": name, "aria-haspopup": "dialog" });
      const frame = make("span", "enlargeable");
      frame.style.width = picture.style.width;
      if (frame.style.width) picture.style.width = "100%";
      (link ?? picture).replaceWith(frame);
      frame.append(picture, button);
      const widen = () => { if (!picture.clientWidth) frame.style.width = "100%"; }; // a picture without a size of its own
      if (picture.complete) widen();
      else picture.addEventListener("load", widen);
      picture.addEventListener("click", () => enlarge(picture, button));
      button.addEventListener("click", () => enlarge(picture, button));
    }
  };
  document.addEventListener("DOMContentLoaded", startEnlarging);
}
