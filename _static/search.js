/* What a search shows: each page once, the best first, with its headings that fit and a sentence around the words. */
"use strict";

{
  const HEADINGS = 4; // at most this many below a page
  const AROUND = 110; // letters before and after the first word that fits

  const stemOf = (word) => new Stemmer().stemWord(word.toLowerCase());

  const textNode = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text });

  /* The pages with all the words, each with the headings that have them all. */
  const findPages = (query) => {
    const [, terms, excluded] = Search._parseQuery(query);
    localStorage.removeItem("sphinx_highlight_terms"); // the next page would be marked, even the first one
    if (!terms.size) return { pages: [], terms };
    const pages = new Map();
    for (const [name, title, , , score] of Search.performTermsSearch(terms, excluded)) {
      pages.set(name, { name, title, score, headings: [] });
    }
    for (const [heading, places] of Object.entries(Search._index.alltitles)) {
      const stems = new Set(splitQuery(heading).map(stemOf));
      if (![...terms].every((term) => stems.has(term))) continue;
      for (const [file, id] of places) {
        const page = pages.get(Search._index.docnames[file]);
        if (!page) continue;
        page.score += id === null || page.title === heading ? 30 : 10;
        if (id !== null && page.title !== heading) page.headings.push({ heading, id });
      }
    }
    return { pages: [...pages.values()].sort((a, b) => b.score - a.score || a.title.localeCompare(b.title)), terms };
  };

  /* Where the first word of a text that has one of these stems begins and ends, or null. */
  const findWord = (text, terms) => {
    for (const found of text.matchAll(/[\p{L}\p{N}_]+(?:[-\u2011][\p{L}\p{N}_]+)*/gu)) {
      if (splitQuery(found[0]).some((word) => terms.has(stemOf(word)))) return [found.index, found.index + found[0].length];
    }
    return null;
  };

  /* A paragraph of a page around the first of these words, or null. Buttons and code are no text to read. */
  const excerpt = (html, terms) => {
    const article = new DOMParser().parseFromString(html, "text/html").querySelector("article");
    for (const part of article?.querySelectorAll("p, li, figcaption, dd, td") ?? []) {
      const text = part.textContent.replace(/\s+/g, " ").trim();
      const place = findWord(text, terms);
      if (!place) continue;
      const [from, to] = place;
      const before = text.slice(Math.max(from - AROUND, 0), from);
      const after = text.slice(to, to + AROUND);
      const shown = document.createElement("p");
      shown.className = "context";
      shown.append(from > AROUND ? `… ${before.replace(/^\S*\s/, "")}` : before, textNode("mark", "", text.slice(from, to)),
        to + AROUND < text.length ? `${after.replace(/\s\S*$/, "")} …` : after);
      return shown;
    }
    return null;
  };

  /* The text of a page is fetched when its place in the list comes into view. */
  const fillInView = (item, address, terms) => {
    const observer = new IntersectionObserver(async ([entry]) => {
      if (!entry.isIntersecting) return;
      observer.disconnect();
      const answer = await fetch(address).catch(() => null); // opened as a file, no page may be fetched
      const context = answer?.ok && excerpt(await answer.text(), terms);
      if (context) item.append(context);
    });
    observer.observe(item);
  };

  const showPage = (page, terms) => {
    const root = document.documentElement.dataset.content_root;
    const address = `${root}${page.name}${DOCUMENTATION_OPTIONS.FILE_SUFFIX}`;
    const item = document.createElement("li");
    const link = item.appendChild(textNode("a", "", ""));
    link.href = address;
    link.innerHTML = page.title;
    if (page.headings.length) {
      const list = item.appendChild(textNode("ul", "search-headings", ""));
      for (const { heading, id } of page.headings.slice(0, HEADINGS)) {
        const inside = list.appendChild(document.createElement("li")).appendChild(textNode("a", "", ""));
        inside.href = `${address}#${id}`;
        inside.innerHTML = heading;
      }
    }
    fillInView(item, address, terms);
    return item;
  };

  const startSearch = () => {
    if (typeof Search === "undefined") return;
    Search.query = (query) => {
      let { pages, terms } = findPages(query);
      if (!pages.length && /[-\u2011]/.test(query)) ({ pages, terms } = findPages(query.replace(/[-\u2011]/g, " ")));
      Search.stopPulse();
      document.getElementById("search-progress")?.replaceChildren();
      Search.title.innerText = "Search results";
      Search.status.setAttribute("role", "status");
      Search.status.innerText = pages.length
        ? `${pages.length} ${pages.length === 1 ? "page has" : "pages have"} “${query}”, the best first.`
        : `No page has “${query}”. Try fewer words, or others.`;
      Search.output.append(...pages.map((page) => showPage(page, terms)));
    };
  };

  document.addEventListener("DOMContentLoaded", startSearch); // before the listener of Sphinx, which starts the search
}
