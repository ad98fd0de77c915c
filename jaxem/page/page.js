"use strict";
// The EM step player: scatter with ellipses, the log-likelihood, and l-hat against it; plain SVG.
(() => {
  const data = JSON.parse(document.getElementById("numbers").textContent);
  const root = document.getElementById("player");
  if (!root || !data.turns) return;

  const NS = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, parent = null, text = null) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    if (parent) parent.appendChild(element);
    return element;
  };
  const html = (name, parent, attributes = {}, text = null) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    parent.appendChild(element);
    return element;
  };
  const range = (values, margin) => {
    const known = values.filter((v) => v !== null);
    let low = Math.min(...known), high = Math.max(...known);
    if (!(high > low)) { const pad = Math.abs(low) * 1e-9 + 1e-9; low -= pad; high += pad; }
    const pad = (high - low) * margin;
    return [low - pad, high + pad];
  };
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

  // A panel: axes that can be moved, and a group to draw in.
  class Panel {
    constructor(parent, width, height, names, margins = [12, 12, 36, 58]) {
      [this.width, this.height, this.margins] = [width, height, margins];
      this.svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, null);
      parent.appendChild(this.svg);
      this.axes = make("g", {}, this.svg);
      const id = `clip${Panel.count = (Panel.count || 0) + 1}`;
      const [top, right, bottom, left] = margins;
      make("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom },
        make("clipPath", { id }, make("defs", {}, this.svg)));
      this.inner = make("g", { "clip-path": `url(#${id})` }, this.svg);
      this.over = make("g", {}, this.svg);
      make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, this.svg, names[0]);
      if (names[1]) {
        make("text", { transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
          this.svg, names[1]);
      }
    }
    scale(xs, ys, marksX = null) {
      const [top, right, bottom, left] = this.margins;
      this.x = (v) => left + (v - xs[0]) / (xs[1] - xs[0]) * (this.width - left - right);
      this.y = (v) => this.height - bottom - (v - ys[0]) / (ys[1] - ys[0]) * (this.height - top - bottom);
      this.axes.replaceChildren();
      const [ticksY, stepY] = ticks(ys, 5);
      for (const v of ticksY) {
        make("line", { class: "grid", x1: left, x2: this.width - right, y1: this.y(v), y2: this.y(v) }, this.axes);
        make("text", { x: left - 6, y: this.y(v) + 4, "text-anchor": "end" }, this.axes, label(v, stepY));
      }
      const [ticksX, stepX] = ticks(xs, 6);
      for (const [v, text] of marksX || ticksX.map((v) => [v, label(v, stepX)])) {
        make("line", { class: "grid", y1: top, y2: this.height - bottom, x1: this.x(v), x2: this.x(v) }, this.axes);
        make("text", { x: this.x(v), y: this.height - bottom + 15, "text-anchor": "middle" }, this.axes, text);
      }
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

  const frames = data.turns.length, k = data.palette.length, flat = data.names.length === 1;
  const bytes = Uint8Array.from(atob(data.colours), (c) => c.charCodeAt(0)), n = data.points.length;
  const colour = (frame, i) => `rgb(${bytes.subarray(3 * (frame * n + i), 3 * (frame * n + i) + 3).join(",")})`;
  const first = data.points.map((p) => p[0]);

  const main = html("figure", root);
  const side = html("div", root, { class: "side" });
  const scatter = new Panel(main, 560, 440, [data.names[0], flat ? "density" : data.names[1]]);
  const traceFigure = html("figure", side), proxyFigure = html("figure", side);
  const trace = new Panel(traceFigure, 400, 196, ["iteration", "log-likelihood"], [12, 12, 34, 66]);
  const proxy = new Panel(proxyFigure, 400, 206, ["step from \u03b8 to M(\u03b8)", "nats above l(\u03b8)"], [12, 12, 34, 66]);
  html("figcaption", proxyFigure, {}, "l-hat (dashed) touches the log-likelihood (solid) at the E-step, lies below it elsewhere, and is highest at the M-step.");

  // the densities that one feature shows
  const grid = flat ? Array.from({ length: 200 }, (_, i) => { const [a, b] = range(first, 0.1); return a + (b - a) * i / 199; }) : [];
  const parts = (frame) => data.palette.map((_, j) => grid.map((x) => {
    const sd = Math.abs(data.factors[frame][j][0]), z = (x - data.means[frame][j][0]) / sd;
    return data.weights[frame][j] * Math.exp(-0.5 * z * z) / (sd * Math.sqrt(2 * Math.PI));
  }));
  if (flat) {
    const top = Math.max(...parts(frames - 1).flat());
    scatter.scale(range(first, 0.1), [-0.12 * top, 1.4 * top]);
  } else {
    scatter.scale(range(first, 0.08), range(data.points.map((p) => p[1]), 0.08));
  }
  const dots = data.points.map((p, i) => make("circle", {
    cx: scatter.x(p[0]), cy: flat ? scatter.y(0) + 8 + 22 * ((i * 0.618) % 1) : scatter.y(p[1]),
    r: n > 250 ? 2.6 : 3.4, "fill-opacity": 0.8,
  }, scatter.inner));
  const curves = data.palette.map((c) => [
    make("path", { fill: "none", stroke: c, "stroke-width": 2.4 }, scatter.inner),
    make("path", { fill: "none", stroke: c, "stroke-width": 1.1, "stroke-dasharray": "4 3" }, scatter.inner),
  ]);
  const marks = data.palette.map((c, j) => make("text", { class: "mark", style: `fill:${c}` }, scatter.over, `${j}`));

  const turns = data.trace.map((_, i) => i);
  const sorted = data.trace.filter((v) => v !== null).sort((a, b) => a - b);
  const low = sorted[Math.floor(sorted.length * 0.06)], high = sorted[sorted.length - 1];
  trace.scale([0, Math.max(1, turns.length - 1)], range([low, high], 0.08));
  make("path", { d: trace.path(turns, data.trace), fill: "none", stroke: "var(--line)", "stroke-width": 2 }, trace.inner);
  const grown = make("path", { fill: "none", stroke: "var(--accent)", "stroke-width": 2.4 }, trace.inner);
  const head = make("circle", { r: 5, fill: "var(--accent)" }, trace.over);

  const solid = make("path", { fill: "none", stroke: "var(--accent)", "stroke-width": 2.2 }, proxy.inner);
  const dashed = make("path", { fill: "none", stroke: "#d55e00", "stroke-width": 2.2, "stroke-dasharray": "6 4" }, proxy.inner);
  const touch = make("circle", { r: 4.5, fill: "var(--accent)" }, proxy.over);
  const peak = make("circle", { r: 4.5, fill: "#d55e00" }, proxy.over);

  const controls = html("div", root, { class: "controls" });
  const button = html("button", controls, { type: "button", "aria-label": "play" }, "\u25b6");
  const slider = html("input", controls, { type: "range", min: 0, max: frames - 1, value: 0, step: 1, "aria-label": "iteration" });
  const output = html("output", controls);

  const unit = Array.from({ length: 73 }, (_, i) => [Math.cos(i * Math.PI / 36), Math.sin(i * Math.PI / 36)]);
  const ring = (mean, f, r) => unit.map(([c, s], i) =>
    `${i ? "L" : "M"}${scatter.x(mean[0] + r * (f[0] * c + f[1] * s)).toFixed(1)} ${scatter.y(mean[1] + r * (f[2] * c + f[3] * s)).toFixed(1)}`).join("") + "Z";
  const closest = (target) => data.along.reduce((best, s, i) => Math.abs(s - target) < Math.abs(data.along[best] - target) ? i : best, 0);
  const zero = closest(0), one = closest(1);

  function draw(frame) {
    dots.forEach((dot, i) => dot.setAttribute("fill", colour(frame, i)));
    const densities = flat ? parts(frame) : null;
    data.palette.forEach((_, j) => {
      const mean = data.means[frame][j], factor = data.factors[frame][j];
      const [outer, inner] = curves[j];
      if (flat) {
        outer.setAttribute("d", scatter.path(grid, densities[j]));
        marks[j].setAttribute("x", scatter.x(mean[0]));
        marks[j].setAttribute("y", Math.max(scatter.y(Math.max(...densities[j])) - 12, 16));
        return;
      }
      outer.setAttribute("d", ring(mean, factor, 2));
      inner.setAttribute("d", ring(mean, factor, 1));
      marks[j].setAttribute("x", scatter.x(mean[0]));
      marks[j].setAttribute("y", scatter.y(mean[1]));
    });
    const turn = data.turns[frame];
    grown.setAttribute("d", trace.path(turns.slice(0, turn + 1), data.trace.slice(0, turn + 1)));
    head.setAttribute("cx", trace.x(turn));
    head.setAttribute("cy", Math.min(trace.y(data.trace[turn]), trace.height - trace.margins[2]));

    const base = data.log_likelihood[frame][zero];
    const above = data.log_likelihood[frame].map((v) => v === null ? null : v - base);
    const below = data.proxy[frame].map((v) => v === null ? null : v - base);
    // what matters lies between the touch and the M-step
    const rise = Math.max(below[one], above[one], 1e-12);
    proxy.scale([data.along[0], data.along[data.along.length - 1]], [-1.2 * rise, 1.7 * rise], [[0, "0: E-step"], [1, "1: M-step"]]);
    solid.setAttribute("d", proxy.path(data.along, above));
    dashed.setAttribute("d", proxy.path(data.along, below));
    touch.setAttribute("cx", proxy.x(data.along[zero])); touch.setAttribute("cy", proxy.y(0));
    peak.setAttribute("cx", proxy.x(data.along[one])); peak.setAttribute("cy", proxy.y(below[one]));
    output.textContent = `iteration ${turn} of ${data.trace.length - 1} \u00b7 ${data.trace[turn].toFixed(3)}`;
    slider.value = frame;
  }

  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "\u25b6"; button.setAttribute("aria-label", "play"); };
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (Number(slider.value) === frames - 1) draw(0);
    button.textContent = "\u275a\u275a"; button.setAttribute("aria-label", "pause");
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      if (next >= frames) { stop(); return; }
      draw(next);
    }, 320);
  });
  slider.addEventListener("input", () => { stop(); draw(Number(slider.value)); });
  const asked = Number((location.hash.match(/frame=(\d+)/) || [])[1]);
  draw(Number.isFinite(asked) ? Math.min(asked, frames - 1) : 0);
})();
