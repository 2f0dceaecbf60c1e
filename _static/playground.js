/* Two sliders over recorded runs: weights kept and bits of each; histogram, bytes of the file and error follow. */
"use strict";

{
  const TALL = 120; // of the histogram, in units of its drawing; each bar is 10 wide

  const startPlayground = (box) => {
    const data = JSON.parse(box.querySelector("script").textContent);
    const make = (tag, attributes, ...children) => {
      const element = document.createElement(tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      element.append(...children);
      return element;
    };
    const kilobytes = (bytes) => `${Math.round(bytes / 1000).toLocaleString("en-US")}\u00a0kB`;

    const slider = (id, text, values, first, said) => {
      const shown = make("output", { for: id });
      const input = make("input", { type: "range", id, min: 0, max: values.length - 1, step: 1 });
      input.value = values.indexOf(first);
      const value = () => values[Number(input.value)];
      const tell = () => {
        shown.textContent = said(value());
        input.setAttribute("aria-valuetext", said(value()));
      };
      const row = make("div", { class: "playground-slider" }, make("label", { for: id }, text), input, shown);
      return { input, row, tell, place: () => Number(input.value), value };
    };
    const kept = slider("playground-kept", "Density", data.densities, 100, (value) => `${value}\u00a0%`);
    const bits = slider("playground-bits", "Bits", data.bits, 32, (value) => `${value}\u00a0bits`);

    const space = "http://www.w3.org/2000/svg";
    const width = 10 * data.bars[0].length;
    const picture = document.createElementNS(space, "svg");
    picture.setAttribute("viewBox", `0 0 ${width} ${TALL}`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("role", "img");
    const bars = [...data.bars[0]].map((_, i) => {
      const bar = document.createElementNS(space, "rect");
      bar.setAttribute("x", 10 * i + 1);
      bar.setAttribute("width", 8);
      picture.append(bar);
      return bar;
    });
    const axis = make("p", { class: "playground-axis", "aria-hidden": "true" },
      ...[-data.edge, 0, data.edge].map((end) => make("span", {}, String(end).replace("-", "−"))));

    const gauge = (text) => {
      const bar = make("span", { class: "playground-bar" });
      const number = make("span", { class: "playground-number" });
      const row = make("div", { class: "playground-gauge", "aria-hidden": "true" }, make("span", {}, text),
        make("span", { class: "playground-track" }, bar), number);
      return { row, set: (share, said) => { bar.style.width = `${100 * share}%`; number.textContent = said; } };
    };
    const file = gauge("File");
    const error = gauge("Error");
    const worst = Math.max(...data.error);
    const sentence = make("p", { class: "playground-said", role: "status" });

    const show = () => {
      const at = kept.place() * data.bits.length + bits.place();
      [kept, bits].forEach((one) => one.tell());
      [...data.bars[at]].forEach((letter, i) => {
        const height = data.heights.indexOf(letter) / 63 * TALL;
        bars[i].setAttribute("height", height);
        bars[i].setAttribute("y", TALL - height);
      });
      const filled = [...data.bars[at]].filter((letter) => letter !== "0").length;
      picture.setAttribute("aria-label",
        `Histogram of the first layer's weights from −${data.edge} to ${data.edge}: ${filled} of ${bars.length} bins hold some`);
      const smaller = data.dense / data.bytes[at];
      file.set(data.bytes[at] / data.dense, kilobytes(data.bytes[at]));
      error.set(data.error[at] / worst, `${data.error[at].toFixed(1)}\u00a0%`);
      sentence.textContent = `With ${kept.value()} % of the weights and ${bits.value()} bits for each, the file has `
        + `${kilobytes(data.bytes[at])}${smaller > 1.05 ? `, ${smaller.toFixed(smaller < 10 ? 1 : 0)} times smaller than the float file` : ""}. `
        + `The network misclassifies ${data.error[at].toFixed(1)} % of the test images.`;
    };
    for (const one of [kept, bits]) one.input.addEventListener("input", show);
    box.append(kept.row, bits.row,
      make("div", { class: "playground-picture" }, picture, axis), file.row, error.row, sentence);
    show();
  };

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".playground").forEach(startPlayground));
}
