"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const weights = bytes(data.weights), hidden = bytes(data.hidden), colours = bytes(data.colours);
const N = data.queries.length, S = data.keys.length;
const at = id => document.getElementById(id);
const grid = at("grid"), map = at("map"), readout = at("readout"), bars = at("bars");
let [layer, head] = data.selected, query = data.query, key = null;

const byte = (n, s) => weights[((layer * data.heads + head) * N + n) * S + s];
const value = b => (b / 255).toFixed(2);
const named = (texts, i) => `“${texts[i].trim() || texts[i]}” (${i})`;      // the position tells two equal tokens apart
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
const luminance = color => color.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);

/* ---- pictures of a map: `side` pixels at most, each the largest weight of its tile ---- */
function picture(canvas, first, side) {
  const t = Math.ceil(Math.max(N, S) / side), rows = Math.ceil(N / t), columns = Math.ceil(S / t);
  const grey = rgb(css("--hidden"));
  canvas.width = columns; canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  const best = new Int16Array(rows * columns).fill(-1);
  for (let n = 0; n < N; n++) for (let s = 0; s < S; s++) if (!hidden[n * S + s]) {
    const tile = Math.floor(n / t) * columns + Math.floor(s / t);
    best[tile] = Math.max(best[tile], weights[first + n * S + s]);
  }
  best.forEach((b, tile) => {
    const color = b < 0 ? grey : colours.subarray(3 * b, 3 * b + 3);
    image.data.set([...color, 255], 4 * tile);
  });
  context.putImageData(image, 0, 0);
  return t;
}

/* ---- all heads ---- */
const thumbs = [];
grid.style.gridTemplateColumns = `max-content repeat(${data.heads}, minmax(22px, 1fr))`;
if (data.heads > 16) grid.style.overflowX = "auto";
for (let l = 0; l < data.layers; l++) {
  const name = document.createElement("span");
  name.className = "layer"; name.textContent = l; name.setAttribute("aria-hidden", "true");
  grid.append(name);
  for (let h = 0; h < data.heads; h++) {
    const button = document.createElement("button");
    button.type = "button"; button.setAttribute("role", "radio");
    button.setAttribute("aria-label", `layer ${l}, head ${h}`); button.title = `${l}.${h}`;
    button.dataset.lmSuppressShortcuts = "true";
    button.append(document.createElement("canvas"));
    button.addEventListener("click", () => choose(l, h));
    grid.append(button); thumbs.push(button);
  }
}
grid.addEventListener("keydown", event => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (event.key === "Home") choose(0, 0, true);
  else if (event.key === "End") choose(data.layers - 1, data.heads - 1, true);
  else if (step) choose(clamp(layer + step[0], data.layers), clamp(head + step[1], data.heads), true);
  else return;
  event.preventDefault();
});
const clamp = (value, size) => Math.min(Math.max(value, 0), size - 1);

function choose(l, h, focus = false) {
  layer = l; head = h;
  thumbs.forEach((button, i) => {
    const on = i === l * data.heads + h;
    button.setAttribute("aria-checked", on); button.tabIndex = on ? 0 : -1;
    if (on && focus) button.focus({ preventScroll: true });
    if (on) reveal(button);
  });
  at("map-title").textContent = `Layer ${l}, head ${h} (${l}.${h})`;
  show();
}

/* Scroll the grid, and never the page. */
function reveal(button) {
  const inside = grid.getBoundingClientRect(), here = button.getBoundingClientRect();
  if (here.top < inside.top + 4) grid.scrollTop -= inside.top + 4 - here.top;
  else if (here.bottom > inside.bottom - 4) grid.scrollTop += here.bottom - inside.bottom + 4;
  if (here.left < inside.left + 4) grid.scrollLeft -= inside.left + 4 - here.left;
  else if (here.right > inside.right - 4) grid.scrollLeft += here.right - inside.right + 4;
}

/* ---- the sentence: buttons for the queries, and the keys tinted by the row ---- */
function chip(text, parent, tag) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}
const queryChips = data.queries.map((text, n) => {
  const button = chip(text, at("queries"), "button");
  button.type = "button"; button.setAttribute("role", "radio"); button.dataset.lmSuppressShortcuts = "true";
  button.addEventListener("pointerenter", () => look(n));
  button.addEventListener("focus", () => look(n));
  button.addEventListener("click", () => look(n));
  return button;
});
const keyChips = data.same ? queryChips : data.keys.map(text => chip(text, at("keys"), "span"));
at("keys").hidden = data.same;
at("sentence-help").textContent = data.same
  ? "Point at a token, or move with the arrow keys: the others are tinted by how much it looks at them."
  : "Point at a token of the first line, or move with the arrow keys: those of the second are tinted by how much it looks at them.";
at("queries").addEventListener("keydown", event => {
  const n = { ArrowLeft: query - 1, ArrowUp: query - 1, ArrowRight: query + 1, ArrowDown: query + 1, Home: 0, End: N - 1 }[event.key];
  if (n === undefined) return;
  queryChips[clamp(n, N)].focus();
  event.preventDefault();
});

function look(n, s = null) {
  if (n === query && s === key) return;
  query = n; key = s;
  show();
}

function tint(element, b) {
  const paper = rgb(css("--paper")), accent = rgb(css("--accent"));
  const color = paper.map((c, i) => Math.round(c + (accent[i] - c) * b / 255));
  element.style.background = `rgb(${color})`;
  element.style.color = luminance(color) > 0.179 ? "#000" : "#fff";
}

function show() {
  const row = data.keys.map((_, s) => s).filter(s => !hidden[query * S + s]);
  keyChips.forEach(element => {
    element.classList.add("may-not"); element.style.background = element.style.color = ""; element.title = "may not look";
  });
  row.forEach(s => {
    keyChips[s].classList.remove("may-not"); keyChips[s].title = value(byte(query, s)); tint(keyChips[s], byte(query, s));
  });
  queryChips.forEach((button, n) => { button.setAttribute("aria-checked", n === query); button.tabIndex = n === query ? 0 : -1; });
  const best = [...row].sort((a, b) => byte(query, b) - byte(query, a) || a - b).slice(0, 5);
  const s = key ?? best[0];
  const who = named(data.queries, query);
  readout.textContent = s === undefined ? `${who} may look at nothing`
    : hidden[query * S + s] ? `${who} may not look at ${named(data.keys, s)}`
    : `${who} looks at ${named(data.keys, s)} with ${value(byte(query, s))}`;
  bars.replaceChildren(...best.map(s => {
    const bar = document.createElement("div"), track = document.createElement("div"), fill = document.createElement("div");
    bar.className = "bar"; track.className = "track"; fill.className = "fill";
    fill.style.width = `${100 * byte(query, s) / 255}%`;
    chip(`${data.keys[s]} (${s})`, bar, "span").title = data.keys[s];
    track.append(fill); bar.append(track);
    chip(value(byte(query, s)), bar, "span");
    return bar;
  }));
  draw();
}

/* ---- the large map ---- */
const FONT = 13, source = document.createElement("canvas"), pen = map.getContext("2d");
let box = null;
const short = text => text.length > 14 ? text.slice(0, 13) + "…" : text;

function draw() {
  const room = map.parentElement.clientWidth;
  pen.font = `${FONT}px system-ui, "DejaVu Sans", sans-serif`;
  const width = texts => Math.min(120, Math.max(...texts.map(t => pen.measureText(short(t)).width)));
  const left = width(data.queries) + 30, top = width(data.keys) + 30;
  const cell = Math.max(Math.min((room - left - 4) / S, 34, 900 / Math.max(N, S)), 1);
  box = { left, top, cell };
  const wide = left + cell * S + 4, high = top + cell * N + 4, sharp = window.devicePixelRatio || 1;
  map.width = Math.round(wide * sharp); map.height = Math.round(high * sharp);
  map.style.width = `${wide}px`; map.style.height = `${high}px`;
  pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  pen.font = `${FONT}px system-ui, "DejaVu Sans", sans-serif`;
  pen.imageSmoothingEnabled = false;
  const t = picture(source, (layer * data.heads + head) * N * S, 1024);
  pen.drawImage(source, left, top, source.width * t * cell, source.height * t * cell);
  pen.textBaseline = "middle";
  labels(data.queries, query, "right", (n, text) => pen.fillText(text, left - 6, top + (n + 0.5) * cell));
  labels(data.keys, key, "left", (s, text) => {
    pen.save(); pen.translate(left + (s + 0.5) * cell, top - 6); pen.rotate(-Math.PI / 2); pen.fillText(text, 0, 0); pen.restore();
  });
  pen.fillStyle = css("--quiet"); pen.textAlign = "left";
  pen.fillText("key (attended to) →", left, 9);
  pen.save(); pen.translate(9, top); pen.rotate(-Math.PI / 2); pen.textAlign = "right"; pen.fillText("← query (attends)", 0, 0); pen.restore();
  pen.strokeStyle = css("--focus"); pen.lineWidth = 2;
  pen.strokeRect(left - 1, top + query * cell, S * cell + 2, Math.max(cell, 2));
  if (key !== null) pen.strokeRect(left + key * cell, top - 1, Math.max(cell, 2), N * cell + 2);
  map.setAttribute("aria-label", `Map of layer ${layer}, head ${head}: ${N} queries down, ${S} keys across. ${readout.textContent}. Arrow keys move.`);
}

/* As many labels as there is room for, and always the one that is picked. */
function labels(texts, picked, align, write) {
  const step = Math.ceil((FONT + 1) / box.cell);
  pen.textAlign = align;
  texts.forEach((text, i) => {
    const crowded = picked !== null && i !== picked && Math.abs(i - picked) * box.cell < FONT + 1;
    if (i !== picked && (i % step || (crowded && step > 1))) return;
    pen.fillStyle = css(i === picked ? "--focus" : "--ink");
    write(i, short(text));
  });
}

map.addEventListener("pointermove", event => point(event));
map.addEventListener("pointerdown", event => point(event));
map.addEventListener("pointerleave", () => look(query));
function point(event) {
  const n = Math.floor((event.offsetY - box.top) / box.cell), s = Math.floor((event.offsetX - box.left) / box.cell);
  if (n >= 0 && n < N && s < S) look(n, s >= 0 ? s : null);
}
map.addEventListener("keydown", event => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!step) return;
  look(clamp(query + step[0], N), clamp((key ?? query) + step[1], S));
  event.preventDefault();
});

/* ---- start, and again when the theme or the width changes ---- */
function thumbnails() {
  thumbs.forEach((button, i) => picture(button.firstChild, i * N * S, 48));
}
function start() {
  document.querySelector("main").hidden = false;
  const scale = at("scale").getContext("2d");
  for (let b = 0; b < 256; b++) { scale.fillStyle = `rgb(${colours.subarray(3 * b, 3 * b + 3)})`; scale.fillRect(b, 0, 1, 1); }
  at("grey").hidden = !hidden.includes(1);
  thumbnails();
  choose(layer, head);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { thumbnails(); show(); });
window.addEventListener("resize", draw);
start();
})();
