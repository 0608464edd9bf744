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
    if (target && target !== panel) target.scrollIntoView();
    else requestAnimationFrame(() => window.scrollTo({ top: 0, behavior: "instant" }));
  };
  if (panels.length) {
    document.documentElement.classList.add("tabbed");
    window.addEventListener("hashchange", follow);
    follow();
  }

  // ---- the curve -------------------------------------------------------------------------------------------------
  const readout = document.getElementById("readout");
  if (readout) {
    for (const mark of document.querySelectorAll(".curve circle")) {
      mark.addEventListener("pointerenter", () => { readout.textContent = mark.dataset.words; });
    }
  }

  // ---- downloads -------------------------------------------------------------------------------------------------
  const save = (blob, name) => {
    const link = make("a", "", { download: name });
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const fileName = (figure) => figure.dataset.name || figure.id || "figure";
  const savePng = (image, name) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
  };
  const PAINT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "display"];
  const saveSvg = (svg, name) => {
    const copy = svg.cloneNode(true);
    const [from, to] = [[svg, ...svg.querySelectorAll("*")], [copy, ...copy.querySelectorAll("*")]];
    from.forEach((node, place) => {
      const style = getComputedStyle(node);
      for (const property of PAINT) to[place].style.setProperty(property, style.getPropertyValue(property));
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    save(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }), `${name}.svg`);
  };
  for (const figure of document.querySelectorAll("figure")) {
    const image = figure.querySelector("img");
    const svg = figure.querySelector(":scope > svg");
    if (!image && !svg) continue;
    const button = make("button", image ? "Download PNG" : "Download SVG", { type: "button", class: "small" });
    button.addEventListener("click", () => (image ? savePng(image, fileName(figure)) : saveSvg(svg, fileName(figure))));
    figure.append(button);
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
  const csv = (table) =>
    [...table.rows].map((row) => [...row.cells].map((one) => cell(one.textContent.trim().replace(/\s+/g, " "))).join(",")).join("\n");
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
    if (rows.length === 1 && table.tBodies.length === 1 && table.tBodies[0].rows.length > 1) {
      [...rows[0].cells].forEach((head, place) => {
        const button = make("button", head.textContent, { type: "button", class: "sort" });
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const down = head.getAttribute("aria-sort") === "ascending";
          for (const other of rows[0].cells) other.removeAttribute("aria-sort");
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
          const body = table.tBodies[0];
          const text = (row) => (row.cells[place] ? row.cells[place].textContent.trim() : "");
          const sorted = [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(text(a), text(b)));
          body.append(...sorted);
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
