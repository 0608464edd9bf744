"use strict";
// Sections as tabs, tables that sort and copy, figures that download. Without scripts the page shows everything.
(() => {
  const tabs = [...document.querySelectorAll("#tabs a")];
  const panels = [...document.querySelectorAll("section.tab")];
  const make = (tag, text, attributes) => {
    const node = document.createElement(tag);
    node.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    return node;
  };

  // ---- tabs ------------------------------------------------------------------------------------------------------
  const open = (panel) => {
    for (const one of panels) one.classList.toggle("open", one === panel);
    for (const tab of tabs) {
      if (tab.hash === `#${panel.id}`) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
  };
  const follow = () => {
    let target = null;
    try { target = document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch (error) { target = null; }
    const panel = (target && target.closest("section.tab")) || panels[0];
    open(panel);
    for (let box = target && target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    if (target && target !== panel) target.scrollIntoView();
    else {
      const asked = location.hash;
      requestAnimationFrame(() => { if (location.hash === asked) window.scrollTo({ top: 0, behavior: "instant" }); });
    }
  };
  if (panels.length) {
    document.documentElement.classList.add("tabbed");
    window.addEventListener("hashchange", follow);
    follow();
  }

  // ---- the curve -------------------------------------------------------------------------------------------------
  // Pointing at a mark shows its numbers; with the drawing in focus, arrow keys go along a line and to the next one.
  const KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  for (const figure of document.querySelectorAll(".curve")) {
    const drawing = figure.querySelector(":scope > svg");
    const readout = figure.querySelector(".readout");
    const lines = [...drawing.querySelectorAll(".series")].reverse();
    let [line, place] = [0, -1];
    const show = () => {
      for (const old of drawing.querySelectorAll(".at")) old.classList.remove("at");
      const mark = lines[line].querySelectorAll("circle")[place];
      mark.classList.add("at");
      readout.textContent = mark.dataset.words;
    };
    lines.forEach((one, number) => {
      [...one.querySelectorAll("circle")].forEach((mark, spot) => {
        mark.addEventListener("pointerenter", () => { [line, place] = [number, spot]; show(); });
      });
    });
    drawing.setAttribute("tabindex", "0");
    drawing.addEventListener("keydown", (event) => {
      const way = KEYS[event.key];
      if (!way) return;
      event.preventDefault();
      const shown = lines.map((_, number) => number).filter((number) => getComputedStyle(lines[number]).display !== "none");
      if (!shown.length) return;
      const now = Math.max(0, shown.indexOf(line));
      line = shown[Math.min(Math.max(now + way[0], 0), shown.length - 1)];
      const last = lines[line].querySelectorAll("circle").length - 1;
      place = Math.min(Math.max(place + way[1], 0), last);
      show();
    });
  }

  // ---- downloads -------------------------------------------------------------------------------------------------
  const save = (blob, name) => {
    const link = make("a", "", { download: name });
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const fileName = (figure) => figure.dataset.name || figure.id || "figure";
  const savePng = (image, name, width, height) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").drawImage(image, 0, 0, width, height);
    canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
  };
  const unpacked = (packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const PAINT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "display"];
  const styled = (svg) => {
    const copy = svg.cloneNode(true);
    const [from, to] = [[svg, ...svg.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
    from.forEach((node, place) => {
      const style = getComputedStyle(node);
      for (const property of PAINT) to[place].style.setProperty(property, style.getPropertyValue(property));
    });
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    for (const [name, value] of Object.entries({ xmlns: "http://www.w3.org/2000/svg", width, height })) copy.setAttribute(name, value);
    return new XMLSerializer().serializeToString(copy);
  };
  const saveSvg = (text, name) => save(new Blob([text], { type: "image/svg+xml" }), `${name}.svg`);
  for (const figure of document.querySelectorAll("figure")) {
    const image = figure.querySelector("img");
    const svg = figure.querySelector(":scope > svg");
    const name = fileName(figure);
    const offer = (words, action) => {
      const button = make("button", words, { type: "button", class: "small" });
      button.addEventListener("click", action);
      figure.append(button);
    };
    if (image) offer("Download PNG", () => savePng(image, name, image.naturalWidth, image.naturalHeight));
    if (figure.dataset.svg) offer("Download SVG", async () => saveSvg(await unpacked(figure.dataset.svg), name));
    if (!svg) continue;
    offer("Download PNG", () => {
      const text = styled(svg);
      const picture = new Image();
      const { width, height } = svg.viewBox.baseVal;
      picture.addEventListener("load", () => savePng(picture, name, 2 * width, 2 * height));
      picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    });
    offer("Download SVG", () => saveSvg(styled(svg), name));
  }

  // ---- tables ----------------------------------------------------------------------------------------------------
  const number = (text) => {
    const match = text.replace(/\u2212/g, "-").replace(/[+,\s]/g, "").match(/^-?\d*\.?\d+(e-?\d+)?/i);
    return match ? Number(match[0]) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) && Number.isNaN(y)) return a.localeCompare(b, "en", { numeric: true });
    if (Number.isNaN(x)) return 1;
    if (Number.isNaN(y)) return -1;
    return x - y;
  };
  const cell = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  const plain = (node) => node.textContent.trim().replace(/\s+/g, " ");
  const isGroup = (row) => row.cells.length === 1 && row.cells[0].scope === "rowgroup";
  const csv = (table) => {
    const grouped = [...table.rows].some(isGroup);
    let group = "group";
    const lines = [];
    for (const row of table.rows) {
      if (isGroup(row)) group = plain(row.cells[0]);
      else lines.push([...(grouped ? [group] : []), ...[...row.cells].map(plain)].map(cell).join(","));
    }
    return lines.join("\n");
  };
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch (error) {
      const area = make("textarea", text);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  for (const frame of document.querySelectorAll(".scroll")) {
    const table = frame.querySelector("table");
    if (!table || frame.closest("#explorer")) continue;
    const rows = table.tHead ? [...table.tHead.rows] : [];
    if (rows.length === 1 && [...table.tBodies].some((body) => body.rows.length > 1)) {
      [...rows[0].cells].forEach((head, place) => {
        const button = make("button", head.textContent, { type: "button", class: "sort" });
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const down = head.getAttribute("aria-sort") === "ascending";
          for (const other of rows[0].cells) other.removeAttribute("aria-sort");
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
          const text = (row) => (row.cells[place] ? row.cells[place].textContent.trim() : "");
          for (const body of table.tBodies) {
            const sorted = [...body.rows].filter((row) => !isGroup(row));
            body.append(...sorted.sort((a, b) => (down ? -1 : 1) * compare(text(a), text(b))));
          }
        });
      });
    }
    const button = make("button", "Copy as CSV", { type: "button", class: "small" });
    button.addEventListener("click", () => copy(csv(table)).then(() => {
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy as CSV"; }, 1500);
    }));
    frame.after(button);
  }
})();
