"use strict";
// The interactive t-SNE. Strings of the data only ever become text: no markup is built from them.
(async () => {
  const find = (name) => document.getElementById(name);
  const root = find("explorer");
  if (!root) return;
  const fail = (error) => {
    const problem = find("x-problem");
    problem.textContent = `The plot cannot be drawn here (${error.message}). The printed figures show the same; browsers since 2023 draw it.`;
    problem.hidden = false;
  };
  const unpacked = (name) => {
    const packed = Uint8Array.from(atob(find(name).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  let data = null;
  try {
    data = JSON.parse(await unpacked("explorer-data"));
  } catch (error) {
    fail(error);
    return;
  }
  const [ID, TASK, INSTRUCTION, PARTITION, SUCCESS, THUMB] = [0, 1, 2, 3, 4, 5];
  const OUTCOMES = { 1: "success", 0: "failure", "-1": "not known" };
  const HEADS = { 0: "held out", 1: "fitted on" };
  const SIDES = ["understanding", "execution"];
  const FIXED = { success: "#0072b2", failure: "#d55e00", "not known": "#8a8a8a", "held out": "#0072b2", "fitted on": "#b0b0b0" };
  const PAGE = 100;
  const plot = find("x-plot");
  const panel = find("x-panel");
  let view = null;
  let visible = [];
  let pinned = null;
  let current = null;
  let rows = PAGE;
  let ready = false;
  let timer = 0;

  const make = (tag, text, attributes) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = String(text);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    return node;
  };
  const owns = data.columns.map((column, place) => {
    const label = make("label", `${column.name} `);
    label.append(make("select", null, { id: `x-own-${place}` }));
    find("x-own").append(label);
    return `x-own-${place}`;
  });
  const natural = (a, b) => a.localeCompare(b, "en", { numeric: true });
  const unique = (values) => [...new Set(values)].sort(natural);
  const episode = (i) => data.episodes[view.episode[i]];
  const partner = (i) => (view.side[i] === 0 ? 1 : 0);
  const words = (i) => episode(i)[INSTRUCTION] || "(no instruction)";

  // ---- filters -------------------------------------------------------------------------------------------------
  const options = (select, pairs, keep) => {
    const before = keep ? select.value : null;
    select.replaceChildren(...pairs.map(([value, text]) => make("option", text, { value })));
    if (before !== null && pairs.some(([value]) => value === before)) select.value = before;
  };
  const every = (what, values) => [["", `all ${what}`], ...values.map((value) => ["=" + value, value])];
  const chosen = (name) => find(name).value.slice(1);
  const is = (name, value) => find(name).value === "" || chosen(name) === value;

  const fill = () => {
    const all = view.episode.map((place) => data.episodes[place]);
    options(find("x-task"), every("tasks", unique(all.map((one) => one[TASK]))), true);
    options(find("x-model"), every("models", unique(view.model.map((place) => data.models[place]))), true);
    options(find("x-outcome"), every("outcomes", unique(all.map((one) => OUTCOMES[one[SUCCESS]]))), true);
    data.columns.forEach((column, place) => {
      const values = unique(view.episode.map((number) => column.values[number]));
      options(find(`x-own-${place}`), [["", "all"], ...values.map((value) => ["=" + value, value || "(none)"])], true);
    });
    options(find("x-fitted"), every("episodes", unique(view.fitted.map((one) => HEADS[one]))), true);
    narrow();
  };
  const narrow = () => {
    const all = view.episode.map((place) => data.episodes[place]).filter((one) => is("x-task", one[TASK]));
    options(find("x-instruction"), every("instructions", unique(all.map((one) => one[INSTRUCTION]))), true);
  };
  const shown = (i) => {
    const one = episode(i);
    const text = find("x-find").value.trim().toLowerCase();
    return (
      is("x-task", one[TASK]) &&
      is("x-instruction", one[INSTRUCTION]) &&
      is("x-outcome", OUTCOMES[one[SUCCESS]]) &&
      is("x-model", data.models[view.model[i]]) &&
      is("x-fitted", HEADS[view.fitted[i]]) &&
      data.columns.every((column, place) => is(`x-own-${place}`, column.values[view.episode[i]])) &&
      (!text || [one[ID], one[TASK], one[INSTRUCTION]].some((part) => part.toLowerCase().includes(text)))
    );
  };

  // ---- colours -------------------------------------------------------------------------------------------------
  const own = () => data.columns[Number(find("x-colour").value.slice(4))];
  const kind = (i) => {
    const one = episode(i);
    if (find("x-colour").value.startsWith("own-")) return own().values[view.episode[i]];
    switch (find("x-colour").value) {
      case "task": return one[TASK];
      case "outcome": return OUTCOMES[one[SUCCESS]];
      case "heads": return HEADS[view.fitted[i]];
      default: return one[TASK] + "\n" + one[INSTRUCTION];
    }
  };
  const colour = (name) => {
    const by = find("x-colour").value;
    const known = by.startsWith("own-") ? own().colours : by === "task" || by === "instruction" ? data.colours[by] : FIXED;
    return Object.hasOwn(known, name) ? known[name] : "#8a8a8a";
  };
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const drawKey = () => {
    const by = find("x-colour").value;
    const names = unique(view.episode.map((_, i) => kind(i)));
    const selects = { task: "x-task", instruction: "x-instruction", outcome: "x-outcome", heads: "x-fitted" };
    const select = find(selects[by] || `x-${by}`);
    find("x-key").replaceChildren(...names.map((name) => {
      const text = name.slice(name.indexOf("\n") + 1) || (by.startsWith("own-") ? "(none)" : "(no instruction)");
      const value = by === "instruction" ? name.slice(name.indexOf("\n") + 1) : name;
      const button = make("button", null, { type: "button", "aria-pressed": String(select.value === "=" + value) });
      const spot = make("i");
      spot.style.backgroundColor = colour(name);
      button.append(spot, make("span", text));
      button.addEventListener("click", () => {
        const already = select.value === "=" + value;
        if (by === "instruction") {
          find("x-task").value = already ? "" : "=" + name.slice(0, name.indexOf("\n"));
          narrow();
        }
        select.value = already ? "" : "=" + value;
        update();
        const again = [...find("x-key").children].find((other) => other.textContent === text);
        if (again) again.focus();
      });
      return button;
    }));
  };

  // ---- the panel -----------------------------------------------------------------------------------------------
  const thumb = (place, name, scale) => {
    const number = data.episodes[place][THUMB];
    if (number < 0 || !find("x-sheet")) return make("span");
    const { columns, width, height, size } = data.sheet;
    const node = make("span", null, { class: "thumb", role: "img", "aria-label": `A middle and the last frame of ${name}` });
    node.style.width = `${width * scale}px`;
    node.style.height = `${height * scale}px`;
    node.style.backgroundImage = "var(--sheet)";
    node.style.backgroundSize = `${size[0] * scale}px ${size[1] * scale}px`;
    node.style.backgroundPosition = `${-(number % columns) * width * scale}px ${-Math.floor(number / columns) * height * scale}px`;
    return node;
  };
  const place = (side, number) => view.episode.findIndex((one, i) => one === number && view.side[i] === side);
  const neighbours = (i) => {
    const near = view.near[i] || [];
    const found = [];
    for (let k = 2; k + 1 < near.length; k += 2) found.push({ episode: near[k], cosine: near[k + 1] });
    return found;
  };

  const describe = (i) => {
    if (i === null) {
      panel.replaceChildren(make("p", "Point at an episode to see it here: with the pointer, with the arrow keys in the plot, or from the table below.", { class: "note" }));
      return;
    }
    const one = episode(i);
    const facts = make("dl");
    const fact = (name, value) => facts.append(make("dt", name), make("dd", value));
    fact("task", one[TASK]);
    fact("outcome", OUTCOMES[one[SUCCESS]]);
    fact("model", `${data.models[view.model[i]]} (${SIDES[view.side[i]]})`);
    if (one[PARTITION]) fact("partition", one[PARTITION]);
    for (const column of data.columns) {
      const value = column.values[view.episode[i]];
      if (value) fact(column.name, value);
    }
    fact("heads", view.shared ? HEADS[view.fitted[i]] : "not used: raw features");
    fact("id", one[ID]);
    panel.replaceChildren(thumb(view.episode[i], one[ID], Math.min(2, 232 / Math.max(1, data.sheet.width))), make("h4", words(i)), facts);
    const near = view.near[i] || [];
    if (near.length) {
      panel.append(make("p", `In the other model, its own counterpart: cosine ${near[0].toFixed(3)}, rank ${near[1]}. Nearest there:`));
      const list = make("ol");
      neighbours(i).forEach((other, rank) => {
        const known = data.episodes[other.episode];
        const button = make("button", null, { type: "button" });
        const text = make("span");
        const same = other.episode === view.episode[i] ? " (the same episode)" : "";
        text.append(make("strong", known[INSTRUCTION] || "(no instruction)"), make("br"),
          make("span", `${rank + 1}. cosine ${other.cosine.toFixed(3)}; ${OUTCOMES[known[SUCCESS]]}; ${known[ID]}${same}`));
        button.append(thumb(other.episode, known[ID], 0.6), text);
        button.addEventListener("click", () => {
          const there = place(partner(i), other.episode);
          if (there >= 0) keep(there);
        });
        const item = make("li");
        item.append(button);
        list.append(item);
      });
      panel.append(list);
    } else if (!view.shared) {
      panel.append(make("p", "Raw features of two models have no common space, so there are no neighbours across them here.", { class: "note" }));
    }
  };
  const point = (i) => {
    current = i;
    describe(i);
    marks();
    for (const row of find("x-rows").children) row.setAttribute("aria-current", String(Number(row.dataset.point) === i));
  };
  const keep = (i) => {
    pinned = i;
    point(i);
  };

  // ---- the plot ------------------------------------------------------------------------------------------------
  const span = (values) => {
    const low = Math.min(...values);
    const high = Math.max(...values);
    const room = (high - low || 1) * 0.06;
    return [low - room, high + room];
  };
  const layout = (moving) => ({
    autosize: true,
    margin: { l: 8, r: 8, t: 8, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style("--ink") },
    showlegend: false,
    hovermode: "closest",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    uirevision: view.group,
    transition: { duration: moving && !matchMedia("(prefers-reduced-motion: reduce)").matches ? 400 : 0, easing: "cubic-in-out" },
    xaxis: { visible: false, range: view.range[0] },
    yaxis: { visible: false, range: view.range[1], scaleanchor: "x" },
  });
  const traces = () => {
    const small = view.episode.length > 2000;
    const both = [0, 1].map((side) => {
      const mine = visible.filter((i) => view.side[i] === side);
      return {
        type: "scatter",
        mode: "markers",
        name: SIDES[side],
        x: mine.map((i) => view.x[i]),
        y: mine.map((i) => view.y[i]),
        customdata: mine,
        hoverinfo: "none",
        marker: {
          symbol: side ? "triangle-up" : "circle",
          size: (small ? 5 : 8) + side,
          color: mine.map((i) => colour(kind(i))),
          opacity: mine.map((i) => (view.fitted[i] ? 0.45 : 1)),
          line: { width: 0.6, color: style("--ink") },
        },
      };
    });
    return [...both, ...selected()];
  };
  const selected = () => {
    const lines = { x: [], y: [] };
    if (current !== null) {
      for (const other of neighbours(current)) {
        const there = place(partner(current), other.episode);
        if (there < 0) continue;
        lines.x.push(view.x[current], view.x[there], null);
        lines.y.push(view.y[current], view.y[there], null);
      }
    }
    const here = current === null ? [] : [current];
    return [
      { type: "scatter", mode: "lines", hoverinfo: "skip", ...lines, line: { width: 1.2, dash: "dot", color: style("--ink") } },
      {
        type: "scatter", mode: "markers", hoverinfo: "skip",
        x: here.map((i) => view.x[i]), y: here.map((i) => view.y[i]),
        marker: { symbol: "circle-open", size: 17, color: style("--accent"), line: { width: 2.5 } },
      },
    ];
  };
  const draw = (moving) => {
    if (!ready) return null;
    return Plotly.react(plot, traces(), layout(moving), { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" });
  };
  const marks = () => {
    if (!ready) return;
    const [lines, ring] = selected();
    Plotly.restyle(plot, { x: [lines.x, ring.x], y: [lines.y, ring.y] }, [2, 3]);
  };
  const zoom = (factor) => {
    if (!ready) return;
    const change = {};
    for (const [name, whole] of [["xaxis", view.range[0]], ["yaxis", view.range[1]]]) {
      const [low, high] = factor ? plot._fullLayout[name].range : whole;
      const half = ((high - low) / 2) * (factor || 1);
      const middle = factor && current !== null && factor < 1 ? view[name[0]][current] : (low + high) / 2;
      change[`${name}.range`] = [middle - half, middle + half];
    }
    Plotly.relayout(plot, change);
  };
  const step = (dx, dy) => {
    if (!visible.length) return;
    const scale = [view.range[0][1] - view.range[0][0], view.range[1][1] - view.range[1][0]];
    if (current === null) return point(visible[0]);
    let best = null;
    let least = Infinity;
    for (const i of visible) {
      const x = (view.x[i] - view.x[current]) / scale[0];
      const y = (view.y[i] - view.y[current]) / scale[1];
      const along = x * dx + y * dy;
      const aside = Math.abs(x * dy - y * dx);
      if (i === current || along <= 0 || aside > 2 * along) continue;
      const cost = along + 2 * aside;
      if (cost < least) [best, least] = [i, cost];
    }
    if (best !== null) point(best);
  };
  plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (moves[event.key]) step(...moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") { if (current !== null) keep(current); }
    else if (event.key === "Escape") keep(null);
    else if (event.key === "+" || event.key === "=") zoom(0.6);
    else if (event.key === "-") zoom(1 / 0.6);
    else if (event.key === "0") zoom(0);
    else return;
    event.preventDefault();
  });

  // ---- the table -----------------------------------------------------------------------------------------------
  const drawTable = () => {
    if (!find("x-table-box").open) return;
    const body = find("x-rows");
    body.replaceChildren(...visible.slice(0, rows).map((i) => {
      const one = episode(i);
      const near = view.near[i] || [];
      const first = neighbours(i)[0];
      const row = make("tr", null, { "data-point": i, "aria-current": String(i === current) });
      const head = make("th", null, { scope: "row" });
      const button = make("button", one[ID], { type: "button" });
      button.addEventListener("click", () => keep(i));
      head.append(button);
      row.append(head);
      const cells = [data.models[view.model[i]], words(i), one[TASK], OUTCOMES[one[SUCCESS]], view.shared ? HEADS[view.fitted[i]] : ""];
      for (const text of cells) row.append(make("td", text));
      row.append(make("td", first ? `${data.episodes[first.episode][INSTRUCTION]} (${data.episodes[first.episode][ID]})` : ""));
      for (const value of [first && first.cosine.toFixed(3), near.length && near[0].toFixed(3), near.length && near[1]])
        row.append(make("td", value || "", { class: "number" }));
      return row;
    }));
    find("x-more").hidden = visible.length <= rows;
    find("x-more").textContent = `Show ${Math.min(PAGE, visible.length - rows)} more of ${visible.length}`;
  };
  find("x-table-box").addEventListener("toggle", drawTable);
  find("x-more").addEventListener("click", () => {
    const next = rows;
    rows += PAGE;
    drawTable();
    const row = find("x-rows").children[next];
    if (row) row.querySelector("button").focus();
  });

  // ---- together ------------------------------------------------------------------------------------------------
  const update = (moving) => {
    visible = view.episode.map((_, i) => i).filter(shown);
    if (current !== null && !visible.includes(current)) { current = null; pinned = null; describe(null); }
    rows = PAGE;
    find("x-count").textContent = `${visible.length} of ${view.episode.length} points, ${new Set(visible.map((i) => view.episode[i])).size} episodes.`;
    drawKey();
    drawTable();
    return draw(moving);
  };
  const slides = () => data.views.filter((one) => one.group === view.group && one.slides);
  const enter = (next, moving) => {
    const same = view && current !== null
      ? next.episode.findIndex((one, i) => one === view.episode[current] && next.side[i] === view.side[current]) : -1;
    view = next;
    const group = view.slides ? slides() : [view];
    view.range = ["x", "y"].map((name) => span(group.flatMap((one) => one[name])));
    current = same >= 0 ? same : null;
    pinned = current;
    find("x-quality").textContent = view.quality ? `${view.quality}.` : "";
    find("x-step-box").hidden = !view.slides;
    if (view.slides) {
      find("x-step").max = String(group.length - 1);
      find("x-step").value = String(group.indexOf(view));
      find("x-step").setAttribute("aria-valuetext", view.title);
      find("x-step-name").textContent = view.step === null ? view.title : `step ${view.step}`;
    }
    fill();
    update(moving);
    describe(current);
  };
  const entries = [];
  for (const one of data.views) {
    if (!one.slides) entries.push(one);
    else if (!entries.some((other) => other.group === one.group)) entries.push(one);
  }
  options(find("x-view"), entries.map((one, i) => {
    const table = one.table === "tsne" ? "" : ` (${one.table})`;
    return [String(i), one.slides ? `${one.group.slice(one.table.length + 2) || "all"}, over training${table}` : `${one.title}${table}`];
  }));
  options(find("x-colour"), [
    ["instruction", "instruction"], ["task", "task"], ["outcome", "outcome"], ["heads", "heads: held out or fitted on"],
    ...data.columns.map((column, place) => [`own-${place}`, column.name]),
  ]);
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    find("x-play").setAttribute("aria-pressed", "false");
    find("x-play").textContent = "Play";
  };
  const slide = (number) => enter(slides()[number], true);
  find("x-view").addEventListener("change", () => {
    stop();
    const next = entries[Number(find("x-view").value)];
    enter(next.slides ? data.views.filter((one) => one.group === next.group).at(-1) : next);
  });
  find("x-step").addEventListener("input", () => { stop(); slide(Number(find("x-step").value)); });
  find("x-play").addEventListener("click", () => {
    if (timer) return stop();
    find("x-play").setAttribute("aria-pressed", "true");
    find("x-play").textContent = "Stop";
    if (Number(find("x-step").value) === slides().length - 1) slide(0);
    timer = setInterval(() => {
      const next = Number(find("x-step").value) + 1;
      if (next >= slides().length) return stop();
      slide(next);
    }, 1100);
    return undefined;
  });
  find("x-task").addEventListener("change", () => { narrow(); update(); });
  for (const name of ["x-instruction", "x-outcome", "x-model", "x-fitted", "x-colour", ...owns]) find(name).addEventListener("change", () => update());
  find("x-find").addEventListener("input", () => update());
  find("x-clear").addEventListener("click", () => {
    for (const name of ["x-task", "x-instruction", "x-outcome", "x-model", "x-fitted", "x-find", ...owns]) find(name).value = "";
    narrow();
    update();
  });
  find("x-in").addEventListener("click", () => zoom(0.6));
  find("x-out").addEventListener("click", () => zoom(1 / 0.6));
  find("x-reset").addEventListener("click", () => zoom(0));
  for (const name of ["theme-auto", "theme-light", "theme-dark"]) find(name).addEventListener("change", () => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

  if (find("x-sheet")) root.style.setProperty("--sheet", `url("${find("x-sheet").src}")`);
  root.hidden = false;
  const first = entries[0];
  enter(first.slides ? data.views.filter((one) => one.group === first.group).at(-1) : first);

  // The library is unpacked when the plot comes near the window: the page opens at once.
  const unpack = async () => {
    const script = make("script", await unpacked("plotly"));
    document.head.append(script);
    if (typeof Plotly === "undefined") throw new Error("the library did not run");
    ready = true;
    await update();
    plot.on("plotly_hover", (event) => {
      const i = event.points[0] && event.points[0].customdata;
      if (typeof i === "number") point(i);
    });
    plot.on("plotly_unhover", () => { if (pinned !== null) point(pinned); });
    plot.on("plotly_click", (event) => {
      const i = event.points[0] && event.points[0].customdata;
      if (typeof i === "number") keep(i);
    });
    root.dataset.ready = "true";
    document.documentElement.classList.add("explored");
  };
  const watch = new IntersectionObserver((entriesSeen) => {
    if (!entriesSeen.some((one) => one.isIntersecting)) return;
    watch.disconnect();
    unpack().catch(fail);
  }, { rootMargin: "800px" });
  watch.observe(root);
})();
