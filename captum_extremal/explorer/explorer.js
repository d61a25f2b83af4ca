// The explorer of one result. An ES module without dependencies; it loads nothing.
//
// The data, in the element #result, are plain values:
//   title; pictures: data URLs, which rows name by their places;
//   explanations: name; count (K of masks of channels or groups, else null); unit (what the masks cover);
//     game: {kept, removed}; about: pairs of words; rows, one for each image or target:
//       name, kind (image, signal, volume, columns), picture, clean_score, perturbed_score, threshold, optimal_area,
//       reached, vacuous, order, maps, inversions; masks in the order of their areas:
//         area, score, complement, value, agreement, enough, optimum, and pictures: mask, outline (an SVG path), seen
//         (the difference to the one before), shares, heat, columns.

const data = JSON.parse(document.getElementById("result").textContent);
const $ = (id) => document.getElementById(id);
const state = { explanation: 0, row: 0, view: "outline", at: 0 };
const SVG = "http://www.w3.org/2000/svg";
const VIEWS = [
  ["outline", "Outline", "o"], ["dark", "Darkening", "d"], ["seen", "What the model saw", "p"],
  ["order", "Order of entry", "e"], ["shares", "Agreement", "g"], ["heat", "Heat map", "h"],
];
const ABOUT = {
  outline: "The outline encloses the part that the mask keeps.",
  dark: "What the mask hides is dark and grey.",
  seen: "The perturbed picture, as the model saw it under this mask.",
  order: "The colour is the smallest mask that keeps the pixel.",
  shares: "The colour is the share of independent searches whose mask of this area keeps the pixel.",
  heat: "The masked activation, summed over its channels.",
};
const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
const INFERNO = ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"];
const STEPS = 63; // of a channel of a perturbed picture; pictures.py has the same
const MARGIN = { left: 46, right: 24, top: 20, bottom: 32 };

// ---- numbers and words

function text(value, digits = 4) {
  if (value === null) return "unknown";
  const plain = Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(digits - 2) : String(Number(value.toPrecision(digits)));
  return plain.replace("-", "\u2212");
}

function areaText(explanation, area) {
  if (explanation.count === null) return `${text(100 * area, 3)} %`;
  const whole = Math.max(Math.round(area * explanation.count), area > 0 ? 1 : 0);
  return `${whole} of ${explanation.count} ${explanation.unit}`;
}

// The scores that a game compares with its threshold, as {of, level}: which curve, and Phi_0 in its units.
function enoughLine(explanation, row) {
  const { kept, removed } = explanation.game;
  if (removed === 0 && kept > 0) return { of: "score", level: row.threshold / kept };
  if (kept === 0 && removed !== 0) return { of: "complement", level: row.threshold / removed };
  return { of: "value", level: row.threshold };
}

// ---- the axis of areas: a place from 0 to 1 on it

function axisOf(explanation) {
  const areas = explanation.rows.flatMap((row) => row.masks.map((mask) => mask.area)).filter((area) => area > 0);
  const least = Math.min(...areas, 1), most = Math.max(...areas, 0);
  const right = most > 0.75 || most === 0 ? 1 : Math.min(1, 1.25 * most);
  if (explanation.count !== null && most >= 50 * least) {
    const span = Math.log(right / least);
    return {
      place: (area) => (area > 0 ? Math.min(Math.max(Math.log(area / least) / span, 0), 1) : 0),
      area: (at) => least * Math.exp(at * span), log: true, left: least, right,
    };
  }
  return { place: (area) => area / right, area: (at) => at * right, log: false, left: 0, right };
}

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}

// ---- what is chosen

function current() {
  const explanation = data.explanations[state.explanation], row = explanation.rows[state.row], axis = axisOf(explanation);
  const distances = row.masks.map((mask) => Math.abs(axis.place(mask.area) - state.at));
  const index = distances.indexOf(Math.min(...distances));
  return { explanation, row, axis, index, mask: row.masks[index] };
}

function viewsOf(row) {
  const has = (key) => row.masks.some((mask) => mask[key]);
  if (row.kind === "image") {
    return VIEWS.filter(([name]) => ({ outline: true, dark: true, seen: has("seen"), order: row.order, shares: has("shares") })[name]);
  }
  if (row.kind === "columns") return VIEWS.filter(([name]) => name === "heat" && has("heat"));
  return row.kind === "signal" ? VIEWS.filter(([name]) => name === "dark") : [];
}

// ---- pixels

const kept = new Map();

function pixels(url) {
  if (!kept.has(url)) kept.set(url, read(url));
  return kept.get(url);
}

async function read(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return drawnAt(image, image.naturalWidth, image.naturalHeight);
}

function drawnAt(source, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function scaled(image, width, height) {
  if (image.width === width && image.height === height) return image;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return drawnAt(canvas, width, height);
}

const sums = new Map();

// Perturbed pictures are kept in STEPS a channel, as differences to the one before, modulo 256.
function seenSums(row, index) {
  const known = row.masks.map((mask, k) => (mask.seen && k <= index ? k : -1)).filter((k) => k >= 0);
  const place = known.length - 1, url = row.masks[index].seen;
  if (!sums.has(url)) {
    sums.set(url, (async () => {
      const own = await pixels(url);
      if (place === 0) return own;
      const before = await seenSums(row, known[place - 1]);
      const sum = new ImageData(own.width, own.height);
      for (let k = 0; k < own.data.length; k++) sum.data[k] = k % 4 === 3 ? 255 : (own.data[k] + before.data[k]) & 255;
      return sum;
    })());
  }
  return sums.get(url);
}

async function seenPixels(row, index) {
  return painted(await seenSums(row, index), (...rgb) => rgb.slice(0, 3).map((one) => (255 / STEPS) * one));
}

function colour(ramp, share) {
  const place = Math.min(Math.max(share, 0), 1) * (ramp.length - 1), k = Math.min(Math.floor(place), ramp.length - 2);
  const [low, high] = [ramp[k], ramp[k + 1]].map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return low.map((one, c) => Math.round(one + (place - k) * (high[c] - one)));
}

const css = (rgb) => `rgb(${rgb.join(" ")})`;
const grey = (r, g, b) => 0.299 * r + 0.587 * g + 0.114 * b;

// A new picture from the pixels of a base: paint(r, g, b, k) -> [r, g, b] for the pixel k.
function painted(base, paint) {
  const made = new ImageData(base.width, base.height);
  for (let k = 0; k < base.width * base.height; k++) {
    const at = 4 * k, [r, g, b] = paint(base.data[at], base.data[at + 1], base.data[at + 2], k);
    made.data.set([r, g, b, 255], at);
  }
  return made;
}

function plain(width, height, value) {
  const made = new ImageData(width, height);
  made.data.fill(value);
  for (let k = 3; k < made.data.length; k += 4) made.data[k] = 255;
  return made;
}

async function darkened(base, mask) {
  const values = scaled(await pixels(mask.mask), base.width, base.height).data;
  return painted(base, (r, g, b, k) => {
    const m = values[4 * k] / 255, hidden = 0.28 * grey(r, g, b);
    return [r, g, b].map((one) => m * one + (1 - m) * hidden);
  });
}

const blend = (over, under, opacity) => over.map((one) => opacity * one + (1 - opacity) * under);

function heatColour(value, isSigned) {
  if (!isSigned) return colour(INFERNO, value);
  return value > 0 ? [213, 94, 0] : [0, 114, 178];
}

async function heated(base, heat) {
  const values = scaled(await pixels(heat.url), base.width, base.height).data;
  return painted(base, (r, g, b, k) => {
    const value = (values[4 * k] - 128) / 127;
    return blend(heatColour(value, heat.signed), grey(r, g, b), 0.85 * Math.min(Math.abs(value), 1));
  });
}

async function baseOf(row, mask) {
  if (row.picture !== null) return pixels(data.pictures[row.picture]);
  if (mask.mask) {
    const { width, height } = await pixels(row.order ?? mask.mask);
    return plain(width, height, row.kind === "signal" ? 255 : 190);
  }
  if (!mask.heat) return null;
  const { width, height } = await pixels(mask.heat.url);
  return plain(16 * width, 16 * height, 190);
}

async function pictureOf(row, index, view) {
  const mask = row.masks[index], base = await baseOf(row, mask);
  if (base === null) return null;
  if (view === "dark" && mask.mask) return darkened(base, mask);
  if (view === "seen") return mask.seen ? seenPixels(row, index) : plain(base.width, base.height, 128);
  if (view === "order") {
    const values = (await pixels(row.order)).data, last = row.masks.length - 1;
    return painted(base, (r, g, b, k) => (values[4 * k] > last ? Array(3).fill(grey(r, g, b))
      : blend(colour(VIRIDIS, 1 - values[4 * k] / last), grey(r, g, b), 0.7)));
  }
  if (view === "shares" && mask.shares) {
    const values = (await pixels(mask.shares)).data;
    return painted(base, (r, g, b, k) => blend(colour(VIRIDIS, values[4 * k] / 255), 0.35 * 255 + 0.4 * grey(r, g, b),
      values[4 * k] > 0 ? 0.85 : 0));
  }
  if (view === "heat" && mask.heat) return heated(base, mask.heat);
  return base;
}

let drawing = 0;

async function drawPicture() {
  const turn = ++drawing, { explanation, row, index, mask } = current(), view = state.view;
  const picture = await pictureOf(row, index, view);
  if (turn !== drawing) return;
  $("left").hidden = picture === null;
  $("panels").classList.toggle("alone", picture === null);
  if (picture === null) return;
  Object.assign($("canvas"), { width: picture.width, height: picture.height });
  $("canvas").getContext("2d").putImageData(picture, 0, 0);
  $("stage").style.setProperty("--ratio", picture.width / picture.height);
  $("stage").classList.toggle("line", row.kind === "signal");
  $("stage").classList.toggle("small", Math.max(picture.width, picture.height) <= 48);
  const shown = view === "outline" || view === "dark" || view === "seen" ? mask.outline : "";
  $("outline").setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  $("outline").replaceChildren(...(shown ? ["under", "over"].map((name) => svg("path", { class: name, d: shown })) : []));
  let about = ABOUT[view] || "The picture. The numbers are of the mask.";
  if (view === "seen" && !mask.seen) about = "What the model saw under this mask is not in this page.";
  if (view === "shares" && !mask.shares) about = "How far searches agree is not known for this mask.";
  if (view === "shares" && mask.agreement !== null) about += ` Mean overlap of two searches: ${text(mask.agreement, 2)}.`;
  const of = `${row.name}, mask of ${areaText(explanation, mask.area)}`;
  $("caption").textContent = `${of}. ${about}`;
  $("canvas").setAttribute("aria-label", `${of}. ${about}`);
  drawLegend(explanation, row, view, mask);
  document.documentElement.dataset.drawn = `${state.explanation} ${state.row} ${index} ${view}`;
}

function drawLegend(explanation, row, view, mask) {
  const box = $("legend"), last = row.masks.length - 1;
  box.replaceChildren();
  if (view === "order") {
    row.masks.forEach((one, k) => {
      const swatch = element("i", { class: "swatch" });
      swatch.style.background = css(colour(VIRIDIS, 1 - k / last));
      box.append(element("span", {}, swatch, `${one.optimum ? "a* " : ""}${areaText(explanation, one.area)}`));
    });
  } else if (view === "shares" || (view === "heat" && mask.heat)) {
    const canvas = element("canvas", { class: "ramp", width: 64, height: 1, "aria-hidden": "true" });
    const context = canvas.getContext("2d"), isSigned = view === "heat" && mask.heat.signed;
    for (let k = 0; k < 64; k++) {
      const value = isSigned ? k / 31.5 - 1 : k / 63;
      context.fillStyle = css(view === "shares" ? colour(VIRIDIS, value)
        : isSigned ? blend(heatColour(value, true), 200, Math.abs(value)) : heatColour(value, false));
      context.fillRect(k, 0, 1, 1);
    }
    const ends = view === "shares" ? ["0 %", "100 % of the searches"] : [isSigned ? "negative" : "0", "largest"];
    box.append(element("span", {}, ends[0], canvas, ends[1]));
  }
}

// ---- the chart

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svg(tag, attributes, content = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = content;
  return made;
}

// The points of a curve, which tell it apart without colours too.
function point(name, x, y, r = 5) {
  if (name === "removed") return svg("rect", { class: "dot removed", x: x - r + 1, y: y - r + 1, width: 2 * r - 2, height: 2 * r - 2 });
  if (name === "value") return svg("path", { class: "dot value", d: `M${x} ${y - r}L${x + r} ${y + r - 1}H${x - r}Z` });
  return svg("circle", { class: `dot ${name}`, cx: x, cy: y, r: r - 0.5 });
}

function curvesOf(explanation, row) {
  const line = enoughLine(explanation, row);
  const curves = [
    { name: "kept", key: "score", words: "score of what the mask keeps", ends: [row.perturbed_score, row.clean_score] },
    { name: "removed", key: "complement", words: "score without it", ends: [row.clean_score, row.perturbed_score] },
  ];
  if (line.of === "value") curves.push({ name: "value", key: "value", words: "the game's value", ends: [null, null] });
  return { line, curves };
}

let chart = null;

function drawChart() {
  const { explanation, row, axis } = current(), { line, curves } = curvesOf(explanation, row), box = $("chart");
  const width = box.clientWidth || 480, height = box.clientHeight || 260;
  const values = [row.clean_score, row.perturbed_score, line.level, ...row.masks.flatMap((mask) => curves.map((one) => mask[one.key]))];
  const finite = values.filter((one) => one !== null), low = Math.min(...finite), high = Math.max(...finite);
  const pad = 0.06 * (high - low) || 0.5;
  const x = (at) => MARGIN.left + at * (width - MARGIN.left - MARGIN.right);
  const y = (score) => height - MARGIN.bottom - ((score - low + pad) / (high - low + 2 * pad)) * (height - MARGIN.top - MARGIN.bottom);
  const parts = [], [x0, x1, y0, y1] = [x(0), x(1), y(low - pad), y(high + pad)];
  for (const value of ticks(low - pad, high + pad, 4)) {
    parts.push(svg("path", { class: "grid", d: `M${x0} ${y(value)}H${x1}` }));
    parts.push(svg("text", { x: x0 - 6, y: y(value) + 4, "text-anchor": "end" }, text(value, 3)));
  }
  const count = explanation.count;
  const marks = axis.log ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].map((k) => k / count)
    : ticks(0, axis.right * (count ?? 100), width < 420 ? 4 : 8).map((k) => k / (count ?? 100));
  for (const area of marks.filter((one) => one >= axis.left - 1e-9 && one <= axis.right + 1e-9)) {
    const label = count === null ? `${text(100 * area, 3)} %` : text(Math.round(area * count));
    parts.push(svg("text", { x: x(axis.place(area)), y: height - MARGIN.bottom + 18, "text-anchor": "middle" }, label));
    parts.push(svg("path", { class: "grid", d: `M${x(axis.place(area))} ${y0}V${y1}` }));
  }
  parts.push(svg("path", { class: "level clean", d: `M${x0} ${y(row.clean_score)}H${x1}` }));
  if (line.level !== null) parts.push(svg("path", { class: "level enough", d: `M${x0} ${y(line.level)}H${x1}` }));
  const optimum = row.masks.find((mask) => mask.optimum);
  if (optimum) {
    const at = x(axis.place(optimum.area));
    parts.push(svg("path", { class: "a-star", d: `M${at} ${y0}V${y1}` }));
    parts.push(svg("text", { class: "a-star-text", x: at, y: y1 - 6, "text-anchor": "middle" }, "a*"));
  }
  for (const { name, key, ends } of curves) {
    const points = row.masks.filter((mask) => mask[key] !== null).map((mask) => [x(axis.place(mask.area)), y(mask[key])]);
    parts.push(svg("path", { class: `line ${name}`, d: `M${points.map((one) => one.join(" ")).join("L")}` }));
    // Nothing kept and everything kept are measured too, but they are no masks of a search.
    if (!axis.log && ends[0] !== null) parts.push(svg("circle", { class: `open ${name}`, cx: x0, cy: y(ends[0]), r: 4 }));
    if (axis.right === 1 && ends[1] !== null) parts.push(svg("circle", { class: `open ${name}`, cx: x1, cy: y(ends[1]), r: 4 }));
    parts.push(...points.map(([u, v]) => point(name, u, v)));
  }
  chart = { x, y, axis, curves, cursor: svg("g", {}) };
  box.setAttribute("viewBox", `0 0 ${width} ${height}`);
  box.replaceChildren(...parts, chart.cursor);
  box.setAttribute("aria-label", `Scores against the area of the mask for ${row.name}: ${row.masks.length} measured masks. The table below has the numbers.`);
  drawMarks(curves, line, row);
}

function drawMarks(curves, line, row) {
  const swatch = (part) => {
    const made = svg("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" });
    made.append(...part);
    return made;
  };
  const level = (name) => [svg("path", { class: `level ${name}`, d: "M0 6H30" })];
  const items = curves.map(({ name, words }) => [[svg("path", { class: `line ${name}`, d: "M0 6H30" }), point(name, 15, 6)], `${words}, measured at the points`]);
  items.push([level("clean"), "the whole input"]);
  if (line.level !== null) {
    const below = line.of === "complement";
    items.push([level("enough"), `\u03a6\u2080, ${below ? "below it is enough" : "from it on is enough"}`]);
  }
  if (row.masks.some((mask) => mask.optimum)) items.push([[svg("path", { class: "a-star", d: "M15 0V12" })], "a*, the smallest that is enough"]);
  items.push([[svg("circle", { class: "open kept", cx: 15, cy: 6, r: 4 })], "nothing and everything kept"]);
  $("marks").replaceChildren(...items.map(([part, words]) => element("li", {}, swatch(part), words)));
}

function drawCursor() {
  const { mask } = current(), { x, y, axis, curves, cursor } = chart, height = $("chart").clientHeight || 260;
  const rings = curves.filter(({ key }) => mask[key] !== null)
    .map(({ key }) => svg("circle", { class: "ring", cx: x(axis.place(mask.area)), cy: y(mask[key]), r: 9 }));
  cursor.replaceChildren(svg("path", { class: "cursor", d: `M${x(state.at)} ${MARGIN.top}V${height - MARGIN.bottom}` }), ...rings);
}

// ---- words about the mask

function enoughText(row, mask) {
  return mask.enough ? "yes" : "no";
}

function optimumText(explanation, row) {
  if (row.vacuous) return "0: nothing needs to be kept, so no part says anything";
  return row.reached ? areaText(explanation, row.optimal_area) : "none: no area is enough";
}

function drawNumbers() {
  const { explanation, row, axis, mask, index } = current(), line = enoughLine(explanation, row);
  const area = axis.area(state.at), here = areaText(explanation, mask.area);
  const exact = Math.abs(axis.place(mask.area) - state.at) < 0.002;
  const name = mask.optimum ? `a*, ${here}` : here;
  $("label").textContent = exact ? `Measured mask: ${name}.`
    : `At ${areaText(explanation, area)}, between measured masks. The nearest measured mask is shown: ${name}.`;
  const pairs = [
    ["Score of what it keeps", "score", mask.score], ["Score without it", "complement", mask.complement],
    ["Score of the whole input", "clean", row.clean_score], ["Score with all hidden", "perturbed", row.perturbed_score],
  ];
  const list = pairs.flatMap(([words, key, value]) => [element("dt", {}, words), element("dd", { "data-score": key }, text(value))]);
  const unit = line.of === "value" ? ` (the game's value is ${text(mask.value)})` : line.of === "complement" ? " (the score without it must not be above)" : "";
  list.push(element("dt", {}, "\u03a6\u2080, what is enough"), element("dd", { "data-score": "enough" }, `${text(line.level)}${unit}`));
  list.push(element("dt", {}, "Is this mask enough?"), element("dd", { id: "is-enough" }, enoughText(row, mask)));
  if (mask.agreement !== null) list.push(element("dt", {}, "Searches agree"), element("dd", {}, text(mask.agreement, 2)));
  list.push(element("dt", {}, "a*"), element("dd", { id: "a-star" }, optimumText(explanation, row)));
  $("scores").replaceChildren(...list);
  $("slider").value = state.at;
  $("slider").setAttribute("aria-valuetext", `${areaText(explanation, area)}. Nearest measured mask ${name}, score ${text(mask.score)}, ${mask.enough ? "enough" : "not enough"}`);
  $("before").disabled = index === 0;
  $("after").disabled = index === row.masks.length - 1;
  $("optimum").disabled = !row.masks.some((one) => one.optimum);
  for (const one of document.querySelectorAll("#table tbody tr")) one.classList.toggle("now", Number(one.dataset.index) === index);
  say(`${row.name}. Mask of ${name}: score ${text(mask.score)}, whole input ${text(row.clean_score)}, ${mask.enough ? "enough" : "not enough"}.`);
}

let speaking = 0, said = "";

function say(words) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    if (words !== said) $("said").textContent = said = words;
  }, 400);
}

function drawTable() {
  const { explanation, row } = current(), known = row.masks.some((mask) => mask.agreement !== null);
  const head = ["Area", "Score of what it keeps", "Score without it", "Enough", ...(known ? ["Searches agree"] : [])];
  const cells = (mask) => [text(mask.score), text(mask.complement), mask.enough ? "yes" : "no", ...(known ? [text(mask.agreement, 2)] : [])];
  const body = row.masks.map((mask, k) => element("tr", { "data-index": k },
    element("th", { scope: "row" }, `${mask.optimum ? "a*, " : ""}${areaText(explanation, mask.area)}`),
    ...cells(mask).map((one) => element("td", {}, one))));
  $("table").replaceChildren(element("table", {}, element("caption", { class: "unseen" }, `Measured masks of ${row.name}`),
    element("thead", {}, element("tr", {}, ...head.map((one) => element("th", { scope: "col" }, one)))),
    element("tbody", {}, ...body)));
}

// ---- channels and groups

async function drawColumns() {
  const { explanation, row, mask } = current(), listed = mask.columns ?? [];
  $("columns").hidden = row.kind !== "columns";
  if (row.kind !== "columns") return;
  const one = explanation.unit.replace(/s$/, "");
  $("columns-name").textContent = listed.length ? `The ${listed.length} ${explanation.unit} that this mask keeps most` : `This mask keeps no ${explanation.unit}`;
  const items = await Promise.all(listed.map(async ([k, value]) => {
    const fill = element("i", {}), item = element("li", {});
    fill.style.width = `${100 * value}%`;
    const map = row.maps?.[k];
    if (map) {
      const image = await pixels(map.url), canvas = element("canvas", { width: image.width, height: image.height, role: "img", "aria-label": `map of ${one} ${k}` });
      canvas.getContext("2d").putImageData(painted(image, (r) => {
        const heat = (r - 128) / 127;
        return map.signed ? blend(heatColour(heat, true), 200, Math.abs(heat)) : heatColour(heat, false);
      }), 0, 0);
      item.append(canvas);
    }
    item.append(element("span", { class: "bar" }, fill), `${one} ${k}: ${text(value, 3)}`);
    return item;
  }));
  if (mask !== current().mask) return;
  $("column-list").replaceChildren(...items);
  $("inversions").replaceChildren(...(row.inversions ?? []).map(([name, picture]) =>
    element("figure", {}, element("img", { src: data.pictures[picture], alt: `Inversion, ${name}` }), element("figcaption", {}, name))));
}

// ---- controls

function radio(group, value, checked, label, onchange) {
  const input = element("input", { type: "radio", name: group, value });
  input.checked = checked;
  input.addEventListener("change", onchange);
  return element("label", { class: "choice" }, input, label);
}

function drawViews() {
  const views = viewsOf(current().row);
  if (!views.some(([name]) => name === state.view)) state.view = views.length ? views[0][0] : "none";
  $("views").hidden = views.length < 2;
  $("view-list").replaceChildren(...views.map(([name, label]) =>
    radio("view", name, name === state.view, element("span", {}, label), () => show({ view: name }))));
  $("keys").textContent = `Keys: ${views.map(([, label, key]) => `${key} ${label.toLowerCase()}`).join(", ")}${views.length ? ", " : ""}a the mask of a*, [ and ] the measured mask before and after, n and b the next and the former image or target.`;
}

async function drawRows() {
  const { rows } = data.explanations[state.explanation];
  $("rows").hidden = rows.length < 2;
  if (rows.length < 2) return;
  $("row-list").replaceChildren(...rows.map((row, k) => {
    const label = element("span", {}, element("canvas", { width: 1, height: 1, "aria-hidden": "true" }), row.name);
    const made = radio("row", String(k), k === state.row, label, () => show({ row: k }));
    made.classList.add("row");
    return made;
  }));
  const canvases = [...$("row-list").querySelectorAll("canvas")];
  for (const [k, row] of rows.entries()) {
    const index = Math.max(row.masks.findIndex((mask) => mask.optimum), 0);
    const view = row.kind === "columns" ? "heat" : "dark";
    const picture = await pictureOf(row, index, view);
    if (picture === null) canvases[k].hidden = true;
    else {
      Object.assign(canvases[k], { width: picture.width, height: picture.height });
      canvases[k].getContext("2d").putImageData(picture, 0, 0);
    }
  }
}

function drawExplanations() {
  const { explanations } = data;
  $("explanations").hidden = explanations.length < 2;
  $("explanation").replaceChildren(...explanations.map((one, k) => element("option", { value: k }, one.name)));
  $("explanation").addEventListener("change", (event) => show({ explanation: Number(event.target.value) }));
}

function drawAbout() {
  const { explanation, row } = current(), [what, size] = explanation.count === null
    ? ["part of the input", "area"] : [`set of ${explanation.unit}`, `number of ${explanation.unit}`];
  $("lede").replaceChildren(`How small may the kept ${what} be before the score falls? `,
    element("span", { class: "on-screen" }, "Drag the slider, or the curve. "),
    `a* is the smallest ${size} found that is enough: here ${optimumText(explanation, row)}.`);
  $("slider-name").textContent = explanation.count === null ? "Area of the mask" : `How many ${explanation.unit} the mask keeps`;
  $("about").replaceChildren(...explanation.about.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function optimalPlace() {
  const { row, axis } = current(), mask = row.masks.find((one) => one.optimum) ?? row.masks[row.masks.length - 1];
  return axis.place(mask.area);
}

function drawMask() {
  drawCursor();
  drawNumbers();
  drawPicture();
  drawColumns();
}

// The one way to change what is shown.
function show(change) {
  const before = current();
  Object.assign(state, change);
  if ("explanation" in change) {
    drawRows();
    state.at = optimalPlace();
  }
  if ("explanation" in change || "row" in change) {
    if (before.mask.optimum) state.at = optimalPlace();
    drawViews();
    drawChart();
    drawTable();
    drawAbout();
  }
  for (const input of document.querySelectorAll("input[type=radio]")) input.checked = input.value === String(state[input.name]);
  drawMask();
}

function step(by) {
  const { row, axis, index, mask } = current(), next = Math.min(Math.max(index + by, 0), row.masks.length - 1);
  // Between two masks, the nearest one may lie in this direction itself.
  const passed = Math.sign(axis.place(mask.area) - state.at) === by && Math.abs(axis.place(mask.area) - state.at) > 1e-6;
  show({ at: axis.place(row.masks[passed ? index : next].area) });
}

function turn(by) {
  const count = data.explanations[state.explanation].rows.length;
  show({ row: (state.row + by + count) % count });
}

const clamp = (at) => Math.min(Math.max(at, 0), 1);
const ON_SLIDER = {
  ArrowLeft: () => show({ at: clamp(state.at - 0.01) }), ArrowDown: () => show({ at: clamp(state.at - 0.01) }),
  ArrowRight: () => show({ at: clamp(state.at + 0.01) }), ArrowUp: () => show({ at: clamp(state.at + 0.01) }),
  PageUp: () => step(1), PageDown: () => step(-1), Home: () => show({ at: 0 }), End: () => show({ at: 1 }),
};
const ANYWHERE = { a: () => show({ at: optimalPlace() }), "]": () => step(1), "[": () => step(-1), n: () => turn(1), b: () => turn(-1) };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const view = viewsOf(current().row).find(([, , key]) => key === event.key);
  let action = event.target === $("slider") ? ON_SLIDER[event.key] : undefined;
  if (!action && $("letters").checked && event.target.tagName !== "SELECT") {
    action = view ? () => show({ view: view[0] }) : ANYWHERE[event.key];
  }
  if (!action) return;
  event.preventDefault();
  action();
}

function dragChart(event) {
  if (event.type === "pointermove" && !(event.buttons & 1)) return;
  const box = $("chart").getBoundingClientRect();
  show({ at: clamp((event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right)) });
}

$("slider").addEventListener("input", (event) => show({ at: Number(event.target.value) }));
$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));
$("optimum").addEventListener("click", ANYWHERE.a);
$("chart").addEventListener("pointerdown", dragChart);
$("chart").addEventListener("pointermove", dragChart);
document.addEventListener("keydown", onKey);
addEventListener("beforeprint", () => { $("numbers").open = true; });
new ResizeObserver(() => { drawChart(); drawCursor(); }).observe($("chart"));
drawExplanations();
state.at = optimalPlace();
drawRows();
show({ row: 0 });
