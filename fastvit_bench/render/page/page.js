// Charts, tables and what is told on hover and focus. Whatever comes from the data is written as text, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const narrow = matchMedia("(max-width: 40rem)");
  const page = () => (narrow.matches ? 10 : 50); // lines of a table at a time: on a narrow screen each is a card
  const PRINTED = 400; // lines that a print holds at most

  const make = (tag, attributes = {}, text = null) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    if (text !== null) element.textContent = text;
    return element;
  };

  // --- what goes with a number ---------------------------------------------------------------------------------------

  const tip = document.getElementById("tip");
  let owner = null; // the element whose figure is told, where it is not the pointer that asked

  const hide = () => {
    tip.hidden = true;
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
  };

  const put = (box) => {
    const { width, height } = tip.getBoundingClientRect();
    const below = box.bottom + 10 + height < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
    tip.style.top = `${below ? box.bottom + 10 : Math.max(8, box.top - 10 - height)}px`;
  };

  const show = (text, box) => {
    hide();
    if (!text) return;
    tip.textContent = text;
    tip.hidden = false;
    put(box);
  };

  const tell = (element, text) => {
    show(text, element.getBoundingClientRect());
    owner = element;
    element.setAttribute("aria-describedby", "tip");
  };

  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", () => { // moving the focus scrolls: then what is told moves along
    if (owner && owner === document.activeElement) put(owner.getBoundingClientRect());
    else hide();
  }, { passive: true, capture: true });

  // one of a set can be reached by Tab, the others from it by the arrow keys
  const roving = (elements) => {
    elements.forEach((element, at) => {
      element.setAttribute("tabindex", at ? "-1" : "0");
      element.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const goal = event.key === "Home" ? 0 : event.key === "End" ? elements.length - 1 : step ? at + step : null;
        const next = goal === null ? null : elements[goal];
        if (!next) return;
        event.preventDefault();
        element.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  };

  // --- charts --------------------------------------------------------------------------------------------------------

  const paper = matchMedia("print");
  const SHEET = 660; // pixels between a sheet's margins, where a chart that is no wider keeps the size of its letters
  const GAP = 24; // between panels
  let printing = paper.matches;

  // panels have one width, and as many columns as there is room for
  const spread = (own, room) => {
    own.columns = Math.min(own.concat.length, Math.max(1, Math.floor(room / 300)));
    const width = Math.floor((room - GAP * (own.columns - 1)) / own.columns) - 58;
    own.concat.forEach((panel) => { panel.width = Math.min(width, 620); });
    return own;
  };

  const adapted = (spec, place) => {
    const own = structuredClone(spec);
    if (own.concat) return spread(own, printing ? SHEET : place.clientWidth);
    own.width = printing ? SHEET : "container";
    own.autosize = { type: "fit-x", contains: "padding" };
    if (printing) own.config.legend = { ...own.config.legend, orient: "bottom", columns: 3 };
    else if (narrow.matches) {
      own.height = Math.min(own.height, 340);
      own.config.legend = { ...own.config.legend, orient: "bottom", columns: 2, labelLimit: 130 };
      own.config.axis = { ...own.config.axis, tickCount: 4, labelLimit: 120, titleLimit: 230 };
      for (const { encoding } of own.layer) if (encoding?.y?.axis?.labelLimit) encoding.y.axis.labelLimit = 120;
    }
    return own;
  };

  const drawn = new Map();

  const draw = async (place, at) => {
    const figure = data.figures[place.dataset.kind][at];
    const view = await vegaEmbed(place, adapted(figure.spec, place), {
      ast: true, // expressions are interpreted: the page's policy forbids eval
      renderer: "svg",
      actions: false,
      defaultStyle: false,
      tooltip: (_handler, event, _item, value) => {
        if (value) show(String(value), { left: event.clientX + 12, top: event.clientY, bottom: event.clientY });
        else hide();
      },
    });
    if (drawn.has(place)) drawn.get(place).finalize();
    drawn.set(place, view);
    place.style.minHeight = "0"; // which kept its room until now
    const caption = place.closest("figure").querySelector("figcaption");
    caption.querySelector("strong").textContent = `${figure.title}.`;
    caption.querySelector("span").textContent = figure.caption;
    // marks that hold a figure are the ones with a description
    const marks = [...place.querySelectorAll(".mark-symbol.role-mark path[aria-label]")];
    const named = (mark) => mark.getAttribute("aria-label");
    for (const mark of marks) {
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-roledescription", "figure");
      mark.addEventListener("focus", () => tell(mark, named(mark)));
      mark.addEventListener("blur", hide);
    }
    roving(marks);
  };

  const places = [...document.querySelectorAll(".chart")];
  const chosen = (kind) => {
    const select = document.querySelector(`select[data-choice="${kind}"]`);
    return select ? Number(select.value) : 0;
  };
  for (const select of document.querySelectorAll("select[data-choice]")) {
    select.addEventListener("change", () => {
      draw(places.find((place) => place.dataset.kind === select.dataset.choice), Number(select.value));
    });
  }
  const redraw = () => Promise.all(places.map((place) => draw(place, chosen(place.dataset.kind))));
  narrow.addEventListener("change", () => {
    redraw();
    tables.forEach((each) => each.print(false));
  });

  // --- tables --------------------------------------------------------------------------------------------------------

  const ABSENT = "–";
  const tables = [];

  const compare = (at, direction) => (one, other) => {
    const [a, b] = [one[at][1], other[at][1]];
    if (a === null || b === null) return (a === null) - (b === null); // what is absent stands last either way
    return direction * (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : a === b ? 0 : 1);
  };

  const table = (place, described) => {
    const { columns, rows, caption } = described;
    const searched = rows.map((row) => row.map((cell) => cell[0]).join(" ").toLowerCase());
    const state = { words: [], facets: new Map(), sort: described.sort, page: 0, all: false };
    let shown = rows;

    const tools = make("div", { class: "tools" });
    const filter = make("input", { type: "search", placeholder: "Filter: words in any column", "aria-label": `Filter: ${caption}` });
    const count = make("output", { "aria-live": "polite" });
    if (rows.length > 1) tools.append(filter);
    filter.addEventListener("input", () => {
      state.words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      state.page = 0;
      update();
    });
    columns.forEach((column, at) => {
      if (!column.facet) return;
      const values = new Map(rows.map((row) => [row[at][0], row[at][1]]));
      if (values.size < 2 || values.size > 500) return;
      const ordered = [...values].sort((a, b) => compare(0, 1)([[0, a[1]]], [[0, b[1]]]));
      const select = make("select", { "aria-label": `Only ${column.title}` });
      select.append(make("option", { value: "" }, `every ${column.title}`));
      for (const [text] of ordered) select.append(make("option", { value: text }, text));
      select.addEventListener("change", () => {
        if (select.value) state.facets.set(at, select.value);
        else state.facets.delete(at);
        state.page = 0;
        update();
      });
      tools.append(select);
    });
    // without headings to click on, on a narrow screen
    const order = make("select", { "aria-label": "Sort by", class: "narrow" });
    order.append(make("option", { value: "" }, "as measured"));
    columns.forEach((column, at) => {
      order.append(make("option", { value: `${at} 1` }, `${column.title} ▲`), make("option", { value: `${at} -1` }, `${column.title} ▼`));
    });
    order.addEventListener("change", () => {
      state.sort = order.value ? order.value.split(" ").map(Number) : null;
      state.page = 0;
      update();
    });
    tools.append(order, count);

    const scroll = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption });
    // roles in full: a table whose rows become blocks on a narrow screen is still a table
    const element = make("table", { role: "table" });
    element.append(make("caption", {}, caption));
    const head = make("tr", { role: "row" });
    const headings = columns.map((column, at) => {
      const heading = make("th", { role: "columnheader", scope: "col", class: [column.number ? "number" : "", column.minor ? "minor" : ""].filter(Boolean).join(" ") || null });
      const button = make("button", { type: "button" }, column.title);
      button.addEventListener("click", () => {
        const same = state.sort && state.sort[0] === at;
        state.sort = same && state.sort[1] < 0 ? null : [at, same ? -1 : 1];
        state.page = 0;
        update();
      });
      heading.append(button);
      head.append(heading);
      return heading;
    });
    const heads = make("thead", { role: "rowgroup" });
    heads.append(head);
    const body = make("tbody", { role: "rowgroup" });
    element.append(heads, body);
    scroll.append(element);

    const pages = make("div", { class: "pages" });
    const before = make("button", { type: "button" }, "Previous");
    const after = make("button", { type: "button" }, "Next");
    const where = make("span");
    before.addEventListener("click", () => { state.page -= 1; update(); });
    after.addEventListener("click", () => { state.page += 1; update(); });
    pages.append(before, after, where);
    place.append(tools, scroll, pages);

    const told = (cell) => {
      const method = cell.length > 3 ? data.conditions[cell[3]].replace(/^\(\d+\) /, "") : "";
      return [...cell[2].split("\n").filter(Boolean), ...(method ? [method] : [])].join("\n");
    };

    const line = (row) => {
      const element = make("tr", { role: "row" });
      row.forEach((cell, at) => {
        const column = columns[at];
        const names = [column.number ? "number" : "", column.wide ? "wide" : "", column.minor ? "minor" : "", cell[0] === ABSENT ? "none" : ""];
        const box = make("td", { role: "cell", "data-title": column.title, class: names.filter(Boolean).join(" ") || null });
        if (cell.length > 2) {
          const button = make("button", { type: "button", class: "figure" });
          const [figure, ...rest] = cell[0].split(" [");
          button.append(figure);
          if (rest.length) button.append(make("span", {}, ` [${rest.join(" [")}`));
          const open = () => tell(button, told(cell));
          button.addEventListener("mouseenter", open);
          button.addEventListener("focus", open);
          button.addEventListener("click", open);
          button.addEventListener("mouseleave", hide);
          button.addEventListener("blur", hide);
          box.append(button);
        } else box.textContent = cell[0];
        element.append(box);
      });
      return element;
    };

    const update = () => {
      shown = rows.filter((row, at) => state.words.every((word) => searched[at].includes(word))
        && [...state.facets].every(([column, text]) => row[column][0] === text));
      if (state.sort) shown = [...shown].sort(compare(...state.sort));
      headings.forEach((heading, at) => {
        if (state.sort && state.sort[0] === at) heading.setAttribute("aria-sort", state.sort[1] > 0 ? "ascending" : "descending");
        else heading.removeAttribute("aria-sort");
      });
      order.value = state.sort ? state.sort.join(" ") : "";
      const size = page();
      const last = Math.max(0, Math.ceil(shown.length / size) - 1);
      state.page = Math.min(state.page, last);
      const from = state.page * size;
      const part = state.all ? shown.slice(0, PRINTED) : shown.slice(from, from + size);
      hide();
      body.replaceChildren(...part.map(line));
      roving([...body.querySelectorAll(".figure")]);
      const all = rows.length.toLocaleString("en");
      count.textContent = shown.length === rows.length ? `${all} lines` : `${shown.length.toLocaleString("en")} of ${all} lines`;
      pages.hidden = last === 0;
      pages.style.display = last === 0 ? "none" : "";
      before.disabled = state.page === 0;
      after.disabled = state.page === last;
      where.textContent = `${from + 1} to ${Math.min(from + size, shown.length)}`;
      if (!part.length) {
        const none = make("tr", { role: "row" });
        none.append(make("td", { role: "cell", colspan: String(columns.length), class: "empty" }, "No line fits the filter."));
        body.append(none);
      }
    };
    tables.push({ print: (on) => { state.all = on; update(); } });
    update();
  };

  // what is folded away is made when it is unfolded
  for (const place of document.querySelectorAll(".table")) {
    const described = data.tables[place.dataset.table];
    const fold = place.closest("details");
    let made = false;
    const build = () => { if (!made) { made = true; table(place, described); } };
    if (fold) {
      fold.addEventListener("toggle", () => { if (fold.open) build(); });
      place.build = build;
    } else build();
  }

  // --- print and theme -----------------------------------------------------------------------------------------------

  const print = (on) => {
    if (printing === on) return;
    printing = on;
    root.dataset.printing = "drawing";
    redraw().then(() => { root.dataset.printing = on ? "ready" : ""; });
  };
  paper.addEventListener("change", () => print(paper.matches));

  let folded = [];
  addEventListener("beforeprint", () => {
    print(true);
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const fold of folded) {
      fold.querySelectorAll(".table").forEach((place) => place.build && place.build());
      fold.open = true;
    }
    tables.forEach((each) => each.print(true));
  });
  addEventListener("afterprint", () => {
    print(false);
    folded.forEach((fold) => { fold.open = false; });
    tables.forEach((each) => each.print(false));
  });

  const button = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  const remembered = { // a browser may forbid a page from a file to keep anything
    get: () => { try { return localStorage.getItem("fastvit-bench-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("fastvit-bench-theme", value); } catch { /* the choice lasts as long as the page */ } },
  };
  const wear = (theme) => {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = themes.includes(remembered.get()) ? remembered.get() : "auto";
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    remembered.set(theme);
    wear(theme);
  });
  wear(theme);

  Promise.all(places.map((place) => draw(place, 0))).then(() => { root.dataset.ready = String(Math.round(performance.now())); });
})();
