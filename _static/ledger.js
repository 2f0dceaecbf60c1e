/* Filters of the ledger: by verdict, by section and by text. The address keeps them, so that a view can be linked. */
"use strict";

const FIELDS = ["verdict", "section", "text"];

/* Make an element with attributes and children. */
const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

/* What a filter can ask of each card of the ledger. */
const readCards = () =>
  [...document.querySelectorAll("div.claim[id]")].map((element) => ({
    element,
    verdict: [...element.classList].find((name) => name.startsWith("is-")).slice(3),
    section: element.closest("section").id,
    text: element.textContent.toLowerCase(),
  }));

const option = (value, text) => make("option", { value, textContent: text });

const buildForm = (cards) => {
  const verdicts = [...new Set(cards.map((card) => card.verdict))].sort();
  const sections = [...new Set(cards.map((card) => card.section))];
  const title = (id) => document.querySelector(`#${CSS.escape(id)} > :is(h2, h3)`).firstChild.textContent;
  const fields = {
    verdict: make("select", { name: "verdict" }, option("", "any verdict"),
      ...verdicts.map((value) => option(value, value.replaceAll("-", " ")))),
    section: make("select", { name: "section" }, option("", "all sections"),
      ...sections.map((value) => option(value, title(value)))),
    text: make("input", { name: "text", type: "search", autocomplete: "off" }),
  };
  const labels = { verdict: "Verdict", section: "Section", text: "Text" };
  const form = make("form", { className: "filter" },
    ...FIELDS.map((name) => make("label", {}, make("span", { textContent: labels[name] }), fields[name])),
    make("button", { type: "reset", textContent: "Show all" }));
  form.setAttribute("aria-label", "Filter of the claims");
  return { form, fields };
};

const startLedger = () => {
  const box = document.querySelector(".ledger-filter");
  if (!box) return;
  const cards = readCards();
  const { form, fields } = buildForm(cards);
  const count = make("p", { className: "filter-count" });
  count.setAttribute("aria-live", "polite");
  box.append(form, count);

  const show = () => {
    const words = fields.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const fits = ["verdict", "section"].every((name) => !fields[name].value || card[name] === fields[name].value)
        && words.every((word) => card.text.includes(word));
      card.element.hidden = !fits;
      shown += fits;
    }
    for (const section of new Set(cards.map((card) => card.element.closest("section")))) {
      section.hidden = !section.querySelector("div.claim[id]:not([hidden])");
    }
    count.textContent = shown === cards.length ? `All ${shown} claims.` : `${shown} of ${cards.length} claims.`;
  };

  const keep = () => {
    const url = new URL(window.location);
    for (const name of FIELDS) {
      if (fields[name].value) url.searchParams.set(name, fields[name].value);
      else url.searchParams.delete(name);
    }
    window.history.replaceState(null, "", url);
    show();
  };

  const read = () => {
    const asked = new URLSearchParams(window.location.search);
    for (const name of FIELDS) {
      fields[name].value = asked.get(name) ?? "";
      if (fields[name].selectedIndex === -1) fields[name].value = ""; // a verdict that no claim has
    }
    show();
  };

  /* A link to a claim that the filter hides shows it. */
  const showLinked = () => {
    const linked = document.getElementById(decodeURIComponent(window.location.hash.slice(1)));
    if (linked?.closest("[hidden]")) {
      form.reset();
      linked.scrollIntoView();
    }
  };

  form.addEventListener("input", keep);
  form.addEventListener("reset", () => {
    for (const name of FIELDS) fields[name].value = "";
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", showLinked);
  read();
  showLinked();
};

document.addEventListener("DOMContentLoaded", startLedger);
