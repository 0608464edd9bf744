(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const PAUSE = 1600; // milliseconds that a map stands while playing

  const make = (name, attributes, parent, text) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const draw = (name, attributes, parent) => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const SHAPES = {
    understanding: { name: "circle", attributes: (r) => ({ r }) },
    execution: { name: "path", attributes: (r) => ({ d: `M0 ${-1.2 * r}L${1.1 * r} ${0.8 * r}H${-1.1 * r}Z` }) },
  };

  const start = (root) => {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const { steps, points, kinds, trainings } = data;
    const size = Math.max(9, Math.min(24, 410 / Math.sqrt(points.side.length)));

    const controls = make("div", { class: "ts-controls", role: "group", "aria-label": "Training step and filters" }, root);
    const play = make("button", { type: "button" }, controls, "Play");
    const where = make("label", { class: "ts-where" }, controls, "Step");
    const range = make("input", { type: "range", min: 0, max: steps.length - 1, step: 1, value: steps.length - 1 }, where);
    const told = make("output", {}, controls);
    const choice = (label, options) => {
      const box = make("label", {}, controls, label);
      const select = make("select", {}, box);
      for (const [value, text] of options) make("option", { value }, select, text);
      select.addEventListener("change", show);
      return select;
    };
    const tasks = [...new Set(kinds.map((kind) => kind.task))];
    const task = choice("Task", [["", "all"], ...tasks.map((name, place) => [String(place), name || "(no task)"])]);
    const side = choice("Model", [["", "both"], ["understanding", "understanding"], ["execution", "execution"]]);

    const grid = make("div", { class: "ts-maps" }, root);
    const maps = trainings.map((training) => {
      const figure = make("figure", { class: "ts-map" }, grid);
      if (training.name) make("h4", {}, figure, training.name);
      const svg = draw("svg", { viewBox: "-1000 -1000 2000 2000", role: "img" }, figure);
      const marks = points.side.map((name, row) => {
        const kind = kinds[points.kind[row]];
        const shape = SHAPES[name];
        const mark = draw(shape.name, { ...shape.attributes(size), fill: kind.colour, class: "ts-mark" }, svg);
        draw("title", {}, mark).textContent = `${points.id[row]}\n${points.instruction[row]}\n${name}: ${training.models[name] || ""}`;
        return mark;
      });
      // Paler points lie below the others.
      const first = training.maps.find((map) => map);
      if (first) marks.forEach((mark, row) => first.pale[row] === "1" && svg.prepend(mark));
      return { training, svg, marks, caption: make("figcaption", {}, figure) };
    });
    legend(root, kinds, trainings.some(({ maps: all }) => all.some((map) => map && map.pale.includes("1"))));

    function show() {
      const place = Number(range.value);
      const step = `step ${steps[place]}`;
      told.textContent = step;
      range.setAttribute("aria-valuetext", step);
      for (const { training, svg, marks, caption } of maps) {
        const map = training.maps[place];
        const words = map ? map.quality : "no checkpoint at this step";
        caption.textContent = words;
        svg.setAttribute("aria-label", `t-SNE of ${training.name || "this run"}, ${step}: ${words}`);
        marks.forEach((mark, row) => {
          const kind = kinds[points.kind[row]];
          const wanted = map && (!side.value || side.value === points.side[row]) && (!task.value || tasks[Number(task.value)] === kind.task);
          mark.classList.toggle("ts-off", !wanted);
          if (!map) return;
          mark.classList.toggle("ts-pale", map.pale[row] === "1");
          mark.style.transform = `translate(${map.xy[2 * row]}px, ${map.xy[2 * row + 1]}px)`;
        });
      }
    }

    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    };
    const next = () => {
      if (Number(range.value) === steps.length - 1) return stop();
      range.value = String(Number(range.value) + 1);
      show();
    };
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (Number(range.value) === steps.length - 1) range.value = "0";
      show();
      play.textContent = "Pause";
      timer = setInterval(next, PAUSE);
    });
    range.addEventListener("input", () => {
      stop();
      show();
    });
    show();
  };

  const legend = (root, kinds, paler) => {
    const list = make("ul", { class: "ts-legend" }, root);
    for (const [name, { name: shape, attributes }] of Object.entries(SHAPES)) {
      const item = make("li", {}, list);
      draw(shape, { ...attributes(4.4), fill: "currentColor" }, draw("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" }, item));
      item.append(name);
    }
    if (paler) make("li", {}, list, "(paler: the heads were fitted on these)");
    for (const kind of kinds) {
      const item = make("li", {}, list);
      draw("rect", { x: -5, y: -5, width: 10, height: 10, fill: kind.colour }, draw("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" }, item));
      item.append(kind.label);
    }
  };

  for (const root of document.querySelectorAll(".mnprobe-tsne-series:not([data-ready])")) {
    root.dataset.ready = "";
    start(root);
  }
})();
