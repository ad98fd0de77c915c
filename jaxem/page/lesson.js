"use strict";
// What the player knows, without the page that shows it. A step is half a turn: steps 0, 2, 4 ... are E-steps, which colour
// the points by the ellipses as they are; steps 1, 3, 5 ... are M-steps, which move the ellipses. The last step is an E-step.
const lesson = (data) => {
  const PARTS = 10000;  // of an axis, in which lengths are counted
  const k = data.palette.length, n = data.points.length, axes = data.axes.length, frames = data.turns.length;
  const shapes = axes === 1 ? "curves" : "ellipses";
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const owners = bytes(data.owners), shares = bytes(data.shares), kept = data.kept;
  const rgb = data.palette.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const steps = 2 * frames - 1, lastTurn = data.trace.length - 1;

  const at = (step) => ({ frame: step >> 1, turn: data.turns[step >> 1], moves: step % 2 === 1 });
  const mixtureAt = (step) => data.at[step >> 1] + step % 2;
  const logLikelihood = (step) => data.trace[at(step).turn + step % 2];

  // p(component | row), [k], of the largest few; what is left over belongs to the others together
  const responsibilities = (frame, row) => {
    const found = Array(k).fill(0), begin = kept * (frame * n + row);
    for (let i = begin; i < begin + kept; i++) found[owners[i]] = shares[i] / 255;
    return { found, others: k > kept ? Math.max(0, 1 - found.reduce((a, b) => a + b, 0)) : 0 };
  };
  const colour = (frame, row) => {
    const begin = kept * (frame * n + row), mixed = [0, 0, 0];
    let total = 0;
    for (let i = begin; i < begin + kept; i++) {
      total += shares[i];
      rgb[owners[i]].forEach((c, channel) => { mixed[channel] += shares[i] * c; });
    }
    return `rgb(${mixed.map((c) => Math.round(c / (total || 1))).join(",")})`;
  };
  const owner = (frame, row) => owners[kept * (frame * n + row)];
  const rows = Array.from({ length: n }, (_, i) => i);
  const changed = (frame) => frame ? rows.filter((i) => owner(frame, i) !== owner(frame - 1, i)).length : n;
  const shared = (frame) => rows.filter((i) => shares[kept * (frame * n + i)] < 0.9 * 255).length;
  const mostShared = () => rows.reduce((best, i) =>
    shares[kept * ((frames - 1) * n + i)] < shares[kept * ((frames - 1) * n + best)] ? i : best, 0);

  // lengths, in parts of the axes
  const mean = (mixture, j, axis) => data.means[mixture][j][axis];
  const deviation = (mixture, j, axis) => data.deviations[mixture][j][axis];
  const correlation = (mixture, j, p, q) => {
    if (p === q) return 1;
    const [a, b] = p < q ? [p, q] : [q, p];
    return data.correlations[mixture][j][a * (2 * axes - a - 1) / 2 + b - a - 1] / 1000;
  };
  // points of the ellipse of r deviations:  mean + r L (cos, sin)  with L the Cholesky factor of the covariance
  const ring = (mixture, j, p, q, r, corners = 72) => {
    const rho = correlation(mixture, j, p, q), left = Math.sqrt(Math.max(0, 1 - rho * rho));
    return Array.from({ length: corners }, (_, i) => {
      const c = Math.cos(2 * Math.PI * i / corners), s = Math.sin(2 * Math.PI * i / corners);
      return [mean(mixture, j, p) + r * deviation(mixture, j, p) * c,
        mean(mixture, j, q) + r * deviation(mixture, j, q) * (rho * c + left * s)];
    });
  };
  const density = (mixture, j, part) => {
    const sd = Math.max(deviation(mixture, j, 0), 1e-9), z = (part - mean(mixture, j, 0)) / sd;
    return data.weights[mixture][j] * Math.exp(-0.5 * z * z) / (sd * Math.sqrt(2 * Math.PI));
  };

  // words
  const valueOf = (axis, part) => data.axes[axis].low + part / PARTS * data.axes[axis].span;
  const written = (axis, part, digits = 3) => {
    if (part === null) return "unknown";
    const value = valueOf(axis, part), decimals = digits - 1 - Math.floor(Math.log10(data.axes[axis].span));
    return decimals > 8 || Math.abs(value) >= 1e9 ? value.toPrecision(6) : value.toFixed(Math.max(0, decimals));
  };
  const nats = (value) => value === null ? "unknown" : Math.abs(value) < 1e-3 && value ? value.toExponential(1)
    : value.toFixed(Math.abs(value) < 10 ? 3 : 2);
  const percent = (part) => `${part > 0 && part < 0.005 ? "under 1" : Math.round(100 * part)}\u00a0%`;
  const total = (step) => logLikelihood(step) === null ? "unknown" : logLikelihood(step).toFixed(3);
  const position = (step) => at(step).turn === lastTurn ? `after turn ${lastTurn}, E-step`
    : `turn ${at(step).turn + 1} of ${lastTurn}, ${at(step).moves ? "M" : "E"}-step`;
  const skipped = (frame) => frame ? data.turns[frame] - data.turns[frame - 1] - 1 : 0;

  const sentence = (step) => {
    const { frame, moves } = at(step);
    if (moves) {
      const rise = logLikelihood(step) - logLikelihood(step - 1), promised = data.proxy[frame][one];
      return `Each of the ${shapes} moves to the mean and the spread of the points in its colour: the log-likelihood `
        + `${rise < 0 ? `falls by rounding, ${nats(-rise)},` : `rises by ${nats(rise)}`} to ${total(step)}`
        + `${promised === null || rise < 0 ? "" : `, and l-hat had promised ${nats(promised)}`}.`;
    }
    const doubt = `${percent(shared(frame) / n)} are shared, which means that no component claims nine tenths of them`;
    if (frame === 0) {
      return `The ${shapes} are a random start, of log-likelihood ${total(step)}. Each point takes the colours of those that `
        + `claim it; of all points ${doubt}.`;
    }
    const jump = skipped(frame);
    return `${jump ? `(${jump} ${jump === 1 ? "turn is" : "turns are"} not shown.) ` : ""}`
      + `Each point takes new colours from the ${shapes}: ${changed(frame)} of ${n} have a new owner, and ${doubt}.`
      + `${step === steps - 1 ? ` The climb ends here, at log-likelihood ${total(step)}.` : ""}`;
  };
  const title = (step) => at(step).moves ? `M: move the ${shapes}` : "E: colour the points";

  // the trace's axis begins above its lowest few values, which would press the others flat; an arrow stands for these
  const known = data.trace.filter((v) => v !== null).sort((a, b) => a - b);
  const traceRange = () => {
    const low = known[Math.floor(known.length * 0.06)], high = known[known.length - 1];
    const pad = 0.08 * (high - low) || Math.abs(high) * 1e-9 + 1e-9;
    return [low - pad, high + pad];
  };
  const isBelow = (step) => logLikelihood(step) !== null && logLikelihood(step) < traceRange()[0];

  const closest = (target) => data.along.reduce((best, s, i) =>
    Math.abs(s - target) < Math.abs(data.along[best] - target) ? i : best, 0);
  const zero = closest(0), one = closest(1);

  return {
    k, n, axes, frames, steps, PARTS, zero, one, at, mixtureAt, logLikelihood, responsibilities, colour, owner, changed, shared,
    mostShared, mean, deviation, correlation, ring, density, valueOf, written, percent, position, sentence, title,
    traceRange, isBelow, total,
  };
};
