/* Filters of the ledger: by verdict, section, chapter and text. The address keeps them, so that a view can be linked. */
"use strict";

{
  const FIELDS = ["verdict", "section", "chapter", "text"];
  const CHOICES = FIELDS.slice(0, 3);
  const MEASURED = ["supported", "supported-in-part", "contradicted", "undecided"];
  const ELSEWHERE = "not-measured-in-this-profile";
  const APART = ["by-definition", "not-testable-here"]; // no measurement decides them, so they are counted apart

  /* Make an element with attributes and children. */
  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };

  const option = (value, text) => make("option", { value, textContent: text });
  const spoken = (slug) => slug.replaceAll(/[-_]/g, " ");

  /* What a filter can ask of each card of the ledger. */
  const readCards = () =>
    [...document.querySelectorAll("div.claim[id]")].map((element) => {
      const style = (start) => [...element.classList].find((name) => name.startsWith(start)).slice(start.length);
      return {
        element,
        verdict: style("is-"),
        chapter: style("of-"),
        section: element.closest("section").id,
        text: element.textContent.toLowerCase().replaceAll("\u00a0", " "),
      };
    });

  /* Choices of verdicts in two groups: the measured ones, and what is counted apart. */
  const verdictChoices = (cards) => {
    const known = new Set(cards.map((card) => card.verdict));
    return [["Measured", [...MEASURED, ELSEWHERE]], ["Counted apart", APART]].map(([label, verdicts]) =>
      make("optgroup", { label }, ...verdicts.filter((value) => known.has(value)).map((value) => option(value, spoken(value)))),
    ).filter((group) => group.children.length);
  };

  const chapterChoices = (cards) =>
    [...new Set(cards.map((card) => card.chapter))].map((name) =>
      option(name, document.querySelector(`.ledger-filter [data-of="${CSS.escape(name)}"]`)?.textContent ?? spoken(name)));

  const sectionChoices = (cards) =>
    [...new Set(cards.map((card) => card.section))].map((id) =>
      option(id, document.querySelector(`#${CSS.escape(id)} > :is(h2, h3)`).firstChild.textContent.replace(/^Section /, "")));

  const buildForm = (cards) => {
    const fields = {
      verdict: make("select", { name: "verdict" }, option("", "any verdict"), ...verdictChoices(cards)),
      section: make("select", { name: "section" }, option("", "all sections"), ...sectionChoices(cards)),
      chapter: make("select", { name: "chapter" }, option("", "all chapters"), ...chapterChoices(cards)),
      text: make("input", { name: "text", type: "search", autocomplete: "off" }),
    };
    const labels = { verdict: "Verdict", section: "Section of the survey", chapter: "Chapter", text: "Text" };
    const form = make("form", { className: "filter" },
      ...FIELDS.map((name) => make("label", {}, make("span", { textContent: labels[name] }), fields[name])),
      make("button", { type: "reset", textContent: "Show all" }));
    form.setAttribute("aria-label", "Filter of the claims");
    return { form, fields };
  };

  /* "12 of 304 claims: 8 measured, 3 by definition, 1 not testable here." */
  const countText = (cards, fitting) => {
    const n = (verdicts) => fitting.filter((card) => verdicts.includes(card.verdict)).length;
    const parts = [[n(MEASURED), "measured"], ...[ELSEWHERE, ...APART].map((verdict) => [n([verdict]), spoken(verdict)])]
      .filter(([count]) => count).map(([count, name]) => `${count} ${name}`);
    const shown = fitting.length === cards.length ? `All ${cards.length}` : `${fitting.length} of ${cards.length}`;
    return `${shown} claims: ${parts.join(", ") || "no claim fits all filters"}.`;
  };

  const startLedger = () => {
    const box = document.querySelector(".ledger-filter");
    if (!box) return;
    const cards = readCards();
    const sections = [...new Set(cards.map((card) => card.element.closest("section")))];
    const { form, fields } = buildForm(cards);
    const count = make("p", { className: "filter-count", tabIndex: -1 });
    count.setAttribute("aria-live", "polite");
    box.append(form, count);

    const show = () => {
      const words = fields.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fitting = cards.filter((card) =>
        CHOICES.every((name) => !fields[name].value || card[name] === fields[name].value)
        && words.every((word) => card.text.includes(word)));
      const shown = new Set(fitting);
      const open = new Set(fitting.map((card) => card.section));
      for (const card of cards) card.element.hidden = !shown.has(card);
      for (const section of sections) section.hidden = !open.has(section.id);
      count.textContent = countText(cards, fitting);
    };

    const address = () => {
      const url = new URL(window.location);
      for (const name of FIELDS) {
        if (fields[name].value) url.searchParams.set(name, fields[name].value);
        else url.searchParams.delete(name);
      }
      return url;
    };

    const keep = () => {
      window.history.replaceState(null, "", address());
      show();
    };

    const read = (search) => {
      const asked = new URLSearchParams(search);
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

    /* A bar, a tile or a name that leads to a view of this page sets the filter; the page is not loaded again. */
    const follow = (event) => {
      const link = event.target.closest('a[href^="?"]');
      if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      window.history.pushState(null, "", link.getAttribute("href").replace(/#.*/, ""));
      read(window.location.search);
      count.focus({ preventScroll: true });
      box.scrollIntoView();
    };

    form.addEventListener("input", keep);
    form.addEventListener("reset", () => {
      for (const name of FIELDS) fields[name].value = "";
      keep();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    document.querySelector("article").addEventListener("click", follow);
    window.addEventListener("popstate", () => read(window.location.search));
    window.addEventListener("hashchange", showLinked);
    read(window.location.search);
    showLinked();
  };

  document.addEventListener("DOMContentLoaded", startLedger);
}
