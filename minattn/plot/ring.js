"use strict";
for (const view of document.querySelectorAll("[data-minattn-ring]:not([data-ready])")) (() => {
view.dataset.ready = "";
const data = JSON.parse(view.querySelector("script[type='application/json']").textContent);
const hidden = Uint8Array.from(atob(data.hidden), c => c.charCodeAt(0));
const p = data.ranks, N = data.tokens, part = name => view.querySelector(name);
const slider = part("input"), canvas = part(".map"), cards = part(".cards"), bars = part(".bars"), says = part(".says");
const names = Object.keys(data.schedules), most = turn => Math.max(...turn.map(one => one.seen));
const longest = Math.max(...names.map(name => data.schedules[name].turns.reduce((sum, turn) => sum + most(turn), 0)), 1);
let schedule = data.schedule, hop = data.hop;

function make(tag, parent, text, style) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (style) element.className = style;
  parent.append(element);
  return element;
}

const buttons = names.map(name => {
  const button = make("button", part(".choice"), name);
  button.type = "button"; button.setAttribute("role", "radio"); button.dataset.lmSuppressShortcuts = "true";
  button.addEventListener("click", () => { schedule = name; show(); });
  return button;
});
part(".choice").addEventListener("keydown", event => {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!step) return;
  schedule = names[(names.indexOf(schedule) + step + names.length) % names.length];
  show();
  buttons[names.indexOf(schedule)].focus();
  event.preventDefault();
});
slider.addEventListener("input", () => { hop = Number(slider.value); show(); });

function show() {
  const shown = data.schedules[schedule], turn = shown.turns[hop], busiest = most(turn);
  buttons.forEach((button, i) => {
    button.setAttribute("aria-checked", names[i] === schedule); button.tabIndex = names[i] === schedule ? 0 : -1;
  });
  slider.value = hop;
  slider.setAttribute("aria-valuetext", `hop ${hop} of 0 to ${p - 1}`);
  part("output").textContent = `${hop} of ${p - 1}`;
  cards.replaceChildren();
  turn.forEach((one, rank) => {
    const card = make("div", cards, undefined, "card");
    make("div", card, `rank ${rank}`);
    make("div", card, `queries ${shown.keeps[rank]}`, "small");
    const block = make("div", card, `keys of rank ${one.source}${one.source === rank ? " (its own)" : ""}`, "block");
    block.style.background = data.colours[one.source];
    make("div", card, hop ? `${one.received.toLocaleString("en")} bytes came from rank ${(rank + p - 1) % p}` : "nothing sent yet", "small");
    make("div", card, one.seen ? `works on ${one.seen} pairs` : "nothing to do: waits", "small");
    make("div", card, `mean lse so far ${one.lse}`, "small");
  });
  paint(shown);
  lanes(shown);
  const waits = turn.filter(one => one.seen < busiest).length;
  const idle = busiest ? 1 - turn.reduce((sum, one) => sum + one.seen, 0) / (busiest * p) : 0;
  const [work, time] = so_far(shown, hop);
  says.textContent = `Hop ${hop}: ${waits ? `${waits} of ${p} ranks wait, ${percent(idle)} of the hop is idle` : "nobody waits"}. `
    + `So far ${time.toLocaleString("en")} units of time, idle ${percent(time ? 1 - work / (time * p) : 0)}.`;
}

const percent = share => `${Math.round(100 * share)}%`;
function so_far(shown, last) {
  let work = 0, time = 0;
  shown.turns.slice(0, last + 1).forEach(turn => { turn.forEach(one => { work += one.seen; }); time += most(turn); });
  return [work, time];
}

/* The pairs of this hop in their full colour, those before paler, those to come empty, those that nobody may see grey. */
function paint(shown) {
  canvas.width = canvas.height = N;
  const pen = canvas.getContext("2d"), image = pen.createImageData(N, N);
  const rgb = data.colours.map(hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)));
  for (let n = 0; n < N; n++) for (let s = 0; s < N; s++) {
    const at = (shown.owner[n] - shown.owner[s] + p) % p, done = at <= hop;
    const color = hidden[n * N + s] ? [128, 128, 128, 90] : done ? [...rgb[shown.owner[s]], at === hop ? 255 : 110] : [0, 0, 0, 0];
    image.data.set(color, 4 * (n * N + s));
  }
  pen.putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", `Map of ${N} queries and ${N} keys, coloured by the rank of the keys, up to hop ${hop}`);
}

function lanes(shown) {
  part(".time").textContent = "time: coloured work on the keys of that rank, hatched waiting; the lines are the ends of hops";
  bars.replaceChildren();
  for (let rank = 0; rank < p; rank++) {
    const lane = make("div", bars, undefined, "lane");
    make("span", lane, `rank ${rank}`);
    const track = make("div", lane, undefined, "track");
    shown.turns.forEach((turn, t) => {
      const box = make("div", track, undefined, `hop ${t > hop ? "later" : t === hop ? "now" : ""}`), whole = most(turn);
      box.style.width = `${100 * whole / longest}%`;
      const fill = make("div", box);
      fill.style.width = whole ? `${100 * turn[rank].seen / whole}%` : "0";
      fill.style.background = data.colours[turn[rank].source];
      make("div", box, undefined, "wait");
    });
  }
  bars.setAttribute("aria-label", shown.turns[hop].map((one, rank) => `rank ${rank}: ${one.seen} pairs`).join(", "));
}

part(".still").style.display = "none";
part(".live").style.display = "";
show();
})();
