// The page: buttons, pictures in plain SVG, bars and a table; what they show comes from lesson.js.
(() => {
  const data = JSON.parse(document.getElementById("numbers").textContent);
  const root = document.getElementById("player");
  if (!root || !data.turns) return;
  const em = lesson(data), flat = em.axes === 1;

  const NS = "http://www.w3.org/2000/svg";
  const element = (made, parent, attributes, text) => {
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    if (parent) parent.appendChild(made);
    return made;
  };
  const svg = (name, parent, attributes = {}, text = null) => element(document.createElementNS(NS, name), parent, attributes, text);
  const html = (name, parent, attributes = {}, text = null) => element(document.createElement(name), parent, attributes, text);

  const ticks = ([low, high], count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high && found.length < 20; i++) found.push(i * step);
    return [found, step];
  };
  const label = (value, step) => {
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    if (Math.abs(value) < step / 2) return "0";
    return digits > 7 || Math.abs(value) >= 1e7 ? value.toPrecision(6) : value.toFixed(digits);
  };

  // A picture as wide as its place, so that text has one size on every screen: axes, and a group to draw in.
  class Panel {
    constructor(parent, ratio, names, alt) {
      [this.ratio, this.names] = [ratio, names];
      this.svg = svg("svg", parent, { role: "img", "aria-label": alt });
      this.axes = svg("g", this.svg);
      const id = `clip${Panel.count = (Panel.count || 0) + 1}`;
      this.clip = svg("rect", svg("clipPath", svg("defs", this.svg), { id }));
      this.inner = svg("g", this.svg, { "clip-path": `url(#${id})` });
      this.over = svg("g", this.svg);
    }
    scale(xs, ys, marksX = null) {
      const width = Math.max(240, this.svg.parentNode.clientWidth), height = Math.round(width * this.ratio);
      const [ticksY, stepY] = ticks(ys, Math.max(3, height / 60)), [ticksX, stepX] = ticks(xs, Math.max(3, width / 90));
      const labels = ticksY.map((v) => label(v, stepY));
      const left = 26 + 7 * Math.max(...labels.map((text) => text.length)), right = 12, top = 10, bottom = 40;
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.box = { left, right: width - right, top, bottom: height - bottom };
      this.x = (v) => left + (v - xs[0]) / (xs[1] - xs[0]) * (width - left - right);
      this.y = (v) => height - bottom - (v - ys[0]) / (ys[1] - ys[0]) * (height - top - bottom);
      for (const [key, value] of Object.entries({ x: left, y: top, width: width - left - right, height: height - top - bottom })) {
        this.clip.setAttribute(key, value);
      }
      this.axes.replaceChildren();
      ticksY.forEach((v, i) => {
        svg("line", this.axes, { class: "grid", x1: left, x2: width - right, y1: this.y(v), y2: this.y(v) });
        svg("text", this.axes, { x: left - 6, y: this.y(v) + 4, "text-anchor": "end" }, labels[i]);
      });
      for (const [v, text] of marksX || ticksX.map((v) => [v, label(v, stepX)])) {
        svg("line", this.axes, { class: "grid", y1: top, y2: height - bottom, x1: this.x(v), x2: this.x(v) });
        svg("text", this.axes, { x: this.x(v), y: height - bottom + 16, "text-anchor": "middle" }, text);
      }
      svg("text", this.axes, { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, shorter(this.names[0], width / 9));
      svg("text", this.axes, { transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
        shorter(this.names[1], height / 9));
    }
    path(xs, ys) {
      let started = false, path = "";
      xs.forEach((x, i) => {
        if (ys[i] === null) { started = false; return; }
        path += `${started ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(ys[i]).toFixed(1)}`;
        started = true;
      });
      return path;
    }
  }
  const shorter = (text, most) => text.length > most ? `${text.slice(0, Math.max(1, Math.floor(most) - 1))}\u2026` : text;
  const swatch = (parent, j) => html("i", parent, { class: "dot", style: `background:${data.palette[j]}`, "aria-hidden": "true" });

  // -- what the page holds --
  const told = html("div", root, { class: "told" });
  const heading = html("h3", told), said = html("p", told, { "aria-live": "polite" });
  const controls = html("div", root, { class: "controls", role: "group", "aria-label": "steps of EM" });
  const back = html("button", controls, { type: "button", "aria-label": "previous half-step" }, "\u25c2");
  const play = html("button", controls, { type: "button", "aria-label": "play" }, "\u25b6");
  const next = html("button", controls, { type: "button", "aria-label": "next half-step" }, "\u25b8");
  const slider = html("input", controls, { type: "range", min: 0, max: em.steps - 1, value: 0, step: 1, "aria-label": "half-step" });
  const output = html("output", controls);

  const main = html("figure", root, { class: "main" });
  const axisNames = data.axes.map((axis) => axis.name);
  const chosen = [0, Math.min(1, em.axes - 1)];
  const scatter = new Panel(main, 0.78, [], "the points and the components");
  scatter.svg.setAttribute("tabindex", "0");
  if (em.axes > 2) {
    const picks = html("p", main, { class: "picks" });
    ["across", "up"].forEach((word, side) => {
      const menu = html("select", html("label", picks, {}, `${word} `));
      axisNames.forEach((name, i) => html("option", menu, { value: i }, name));
      menu.value = chosen[side];
      menu.addEventListener("change", () => { chosen[side] = Number(menu.value); lay(); });
    });
  }
  const side = html("div", root, { class: "side" });
  const tableOf = html("div", side, { class: "now", tabindex: "0", role: "group", "aria-label": "weights and means now" });
  const point = html("div", side, { class: "point" });
  const charts = html("div", root, { class: "charts" }), traceFigure = html("figure", charts), proxyFigure = html("figure", charts);
  const trace = new Panel(traceFigure, 0.5, ["turns made", "log-likelihood"], "the log-likelihood after each turn");
  const proxy = new Panel(proxyFigure, 0.5, ["step from \u03b8 to M(\u03b8)", "nats above l(\u03b8)"], "l-hat and the log-likelihood along the M-step");
  html("figcaption", traceFigure, {}, "An arrow stands for a value below the axis.");
  html("figcaption", proxyFigure, {}, "l-hat (dashed) touches the log-likelihood (solid) at the E-step, lies below it elsewhere, and is highest at the M-step.");

  const dots = data.points.map(() => svg("circle", scatter.inner, { r: em.n > 250 ? 2.8 : 3.6, "fill-opacity": 0.8 }));
  const halo = svg("circle", scatter.inner, { r: 8, class: "halo" });
  const curves = data.palette.map((c) => [
    svg("path", scatter.inner, { class: "shape", stroke: c, "stroke-width": 2.4 }),
    svg("path", scatter.inner, { class: "shape", stroke: c, "stroke-width": 1.3, "stroke-dasharray": "5 4" }),
  ]);
  const marks = data.palette.map((c, j) => svg("text", scatter.over, { class: "mark", style: `fill:${c}` }, `${j}`));
  const whole = svg("path", trace.inner, { fill: "none", stroke: "var(--line)", "stroke-width": 2 });
  const grown = svg("path", trace.inner, { fill: "none", stroke: "var(--accent)", "stroke-width": 2.4 });
  const head = svg("circle", trace.over, { r: 5, fill: "var(--accent)" });
  const arrow = svg("text", trace.over, { class: "arrow" });
  const solid = svg("path", proxy.inner, { fill: "none", stroke: "var(--accent)", "stroke-width": 2.2 });
  const dashed = svg("path", proxy.inner, { fill: "none", stroke: "#d55e00", "stroke-width": 2.2, "stroke-dasharray": "6 4" });
  const touch = svg("circle", proxy.over, { fill: "var(--accent)" }), peak = svg("circle", proxy.over, { fill: "#d55e00" });

  // the table of what changes
  const table = html("table", tableOf);
  const headRow = html("tr", html("thead", table));
  const cells = data.palette.map((_, j) => {
    const row = html("tr", table);
    swatch(html("th", row), j).after(`${j}`);
    return [0, 1, 2].slice(0, flat ? 2 : 3).map(() => html("td", row));
  });

  // the point that was chosen
  const pointName = html("p", point, { "aria-live": "polite" });
  const bars = html("div", point, { class: "bars" });
  const pointButtons = html("p", point, { class: "picks" });
  [["previous point", -1], ["next point", 1]].forEach(([word, by]) =>
    html("button", pointButtons, { type: "button" }, word).addEventListener("click", () => choose(neighbour(by))));

  let step = 0, chosenPoint = em.mostShared(), places = [];
  const lifted = (i) => 8 + 22 * ((i * 0.618) % 1);  // rows of one feature, at heights that say nothing
  const axisRange = (axis, margin) => [em.valueOf(axis, -margin * em.PARTS), em.valueOf(axis, (1 + margin) * em.PARTS)];
  const grid = flat ? Array.from({ length: 200 }, (_, i) => em.PARTS * (-0.1 + 1.2 * i / 199)) : [];
  const unit = flat ? em.PARTS / data.axes[0].span : 1;  // of a density

  function lay() {
    const [p, q] = chosen;
    scatter.names = [axisNames[p], flat ? "density" : axisNames[q]];
    if (flat) {
      const top = Math.max(...data.palette.flatMap((_, j) => grid.map((v) => unit * em.density(em.mixtureAt(em.steps - 1), j, v))));
      scatter.scale(axisRange(0, 0.1), [-0.16 * top, 1.4 * top]);
    } else {
      scatter.scale(axisRange(p, 0.08), axisRange(q, 0.08));
    }
    places = data.points.map((row, i) => [scatter.x(em.valueOf(p, row[p])),
      flat ? scatter.y(0) + lifted(i) : scatter.y(em.valueOf(q, row[q]))]);
    dots.forEach((dot, i) => { dot.setAttribute("cx", places[i][0]); dot.setAttribute("cy", places[i][1]); });
    const turns = data.trace.map((_, i) => i);
    trace.scale([0, Math.max(1, turns.length - 1)], em.traceRange());
    whole.setAttribute("d", trace.path(turns, data.trace));
    headRow.replaceChildren();
    ["", "weight", ...(flat ? [axisNames[0]] : [axisNames[p], axisNames[q]])].forEach((name) => html("th", headRow, {}, shorter(name, 14)));
    draw(step);
  }

  function drawShapes() {
    const mixture = em.mixtureAt(step), [p, q] = chosen;
    data.palette.forEach((_, j) => {
      const [outer, inner] = curves[j], mark = marks[j];
      const unknown = em.mean(mixture, j, p) === null;
      for (const shape of [outer, inner, mark]) shape.style.display = unknown ? "none" : "";
      if (unknown) return;
      mark.setAttribute("x", scatter.x(em.valueOf(p, em.mean(mixture, j, p))));
      if (flat) {
        const heights = grid.map((v) => unit * em.density(mixture, j, v));
        outer.setAttribute("d", scatter.path(grid.map((v) => em.valueOf(0, v)), heights));
        mark.setAttribute("y", Math.max(scatter.y(Math.max(...heights)) - 12, 20));
        return;
      }
      mark.setAttribute("y", scatter.y(em.valueOf(q, em.mean(mixture, j, q))));
      [[outer, 2], [inner, 1]].forEach(([shape, r]) => {
        const ring = em.ring(mixture, j, p, q, r);
        shape.setAttribute("d", `${scatter.path(ring.map((v) => em.valueOf(p, v[0])), ring.map((v) => em.valueOf(q, v[1])))}Z`);
      });
    });
    cells.forEach((row, j) => {
      row[0].textContent = data.weights[mixture][j] === null ? "unknown" : data.weights[mixture][j].toFixed(3);
      row[1].textContent = em.written(p, em.mean(mixture, j, p));
      if (!flat) row[2].textContent = em.written(q, em.mean(mixture, j, q));
    });
  }

  function drawPoint() {
    const { frame } = em.at(step), { found, others } = em.responsibilities(frame, chosenPoint), row = data.points[chosenPoint];
    halo.setAttribute("cx", places[chosenPoint][0]); halo.setAttribute("cy", places[chosenPoint][1]);
    const values = [...new Set(chosen)].map((axis) => `${axisNames[axis]} ${em.written(axis, row[axis])}`);
    pointName.textContent = `The point with the ring: ${values.join(", ")}. Its responsibilities:`;
    bars.replaceChildren();
    const bar = (name, part, j) => {
      const line = html("div", bars), head = html("span", line);
      if (j !== null) swatch(head, j);
      head.append(name);
      html("b", html("i", line, { "aria-hidden": "true" }), { style: `width:${100 * part}%;background:${j === null ? "var(--soft)" : data.palette[j]}` });
      html("small", line, {}, em.percent(part));
    };
    const listed = found.map((part, j) => [part, j]).filter(([part]) => em.k <= 6 || part > 0);
    listed.forEach(([part, j]) => bar(`${j}`, part, j));
    if (others > 0.005) bar("others", others, null);
  }

  function drawLines() {
    const { frame, turn, moves } = em.at(step), reached = turn + (moves ? 1 : 0), value = em.logLikelihood(step);
    const turns = data.trace.slice(0, reached + 1).map((_, i) => i);
    grown.setAttribute("d", trace.path(turns, data.trace.slice(0, reached + 1)));
    const below = em.isBelow(step), x = trace.x(reached);
    head.style.display = below || value === null ? "none" : "";
    arrow.textContent = below ? `\u25bc ${em.total(step)}` : "";
    if (below) { arrow.setAttribute("x", x + 6); arrow.setAttribute("y", trace.box.bottom - 6); }
    else if (value !== null) { head.setAttribute("cx", x); head.setAttribute("cy", trace.y(value)); }
    const above = data.log_likelihood[frame], under = data.proxy[frame];
    const rise = Math.max(under[em.one], above[em.one], 1e-12);  // what matters lies between the touch and the M-step
    proxy.scale([data.along[0], data.along[data.along.length - 1]], [-1.2 * rise, 1.7 * rise], [[0, "0: E-step"], [1, "1: M-step"]]);
    solid.setAttribute("d", proxy.path(data.along, above));
    dashed.setAttribute("d", proxy.path(data.along, under));
    touch.setAttribute("cx", proxy.x(0)); touch.setAttribute("cy", proxy.y(0)); touch.setAttribute("r", moves ? 3.5 : 6);
    peak.setAttribute("cx", proxy.x(1)); peak.setAttribute("cy", proxy.y(under[em.one] || 0)); peak.setAttribute("r", moves ? 6 : 3.5);
  }

  function draw(to) {
    step = Math.max(0, Math.min(em.steps - 1, to));
    const { frame } = em.at(step);
    dots.forEach((dot, i) => dot.setAttribute("fill", em.colour(frame, i)));
    drawShapes();
    drawPoint();
    drawLines();
    heading.textContent = em.title(step);
    said.textContent = em.sentence(step);
    root.classList.toggle("moves", em.at(step).moves);
    output.textContent = `${em.position(step)} \u00b7 ${em.total(step)}`;
    slider.value = step;
    slider.setAttribute("aria-valuetext", em.position(step));
    back.disabled = step === 0;
    next.disabled = step === em.steps - 1;
  }

  // -- what a reader does --
  const neighbour = (by) => {
    const order = places.map((_, i) => i).sort((a, b) => places[a][0] - places[b][0] || a - b);
    return order[(order.indexOf(chosenPoint) + by + em.n) % em.n];
  };
  function choose(i) { chosenPoint = i; drawPoint(); }

  let timer = null;
  const named = (word, sign) => { play.textContent = sign; play.setAttribute("aria-label", word); };
  const stop = () => { clearInterval(timer); timer = null; said.setAttribute("aria-live", "polite"); named("play", "\u25b6"); };
  const go = (by) => { stop(); draw(step + by); };
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (step === em.steps - 1) draw(0);
    named("pause", "\u275a\u275a");
    said.setAttribute("aria-live", "off");  // too fast to be read out
    timer = setInterval(() => { if (step === em.steps - 1) stop(); else draw(step + 1); }, 450);
  });
  back.addEventListener("click", () => go(-1));
  next.addEventListener("click", () => go(1));
  slider.addEventListener("input", () => { stop(); draw(Number(slider.value)); });
  const arrows = { ArrowLeft: -1, ArrowRight: 1 };
  document.addEventListener("keydown", (event) => {
    const by = arrows[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target === scatter.svg) { choose(neighbour(by)); event.preventDefault(); return; }
    if (/^(INPUT|SELECT|SUMMARY)$/.test(event.target.tagName) || event.target.closest(".wide, .now")) return;
    go(by);
  });
  // a finger is wider than a point: the nearest one is meant
  scatter.svg.addEventListener("click", (event) => {
    const box = scatter.svg.getBoundingClientRect(), zoom = scatter.svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * zoom, y = (event.clientY - box.top) * zoom;
    const far = ([a, b]) => (a - x) ** 2 + (b - y) ** 2;
    choose(places.reduce((best, place, i) => far(place) < far(places[best]) ? i : best, 0));
  });
  // paper shows the end of the climb, and what was folded
  let before = 0, folded = [];
  window.addEventListener("beforeprint", () => {
    stop();
    before = step;
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((one) => { one.open = true; });
    draw(em.steps - 1);
  });
  window.addEventListener("afterprint", () => { folded.forEach((one) => { one.open = false; }); draw(before); });
  let width = root.clientWidth;
  window.addEventListener("resize", () => { if (root.clientWidth !== width) { width = root.clientWidth; lay(); } });
  const asked = Number((location.hash.match(/step=(\d+)/) || [])[1]);
  step = Number.isFinite(asked) ? asked : 0;
  lay();
})();
