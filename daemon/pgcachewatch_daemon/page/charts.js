// Moving lines of the last minutes, drawn as SVG, so that their colours are the style sheet's in light and dark.
//
// One value a second. A value that is not known leaves a hole in the line and is never drawn as zero.

import { make, write } from "./words.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const SAMPLES = 180;
const WIDTH = 360;
const HEIGHT = 96;

function draw(tag, attributes) {
  const element = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// The least of 1, 2, 5 times a power of ten that is not below the value.
export function ceiling(value, least) {
  if (!(value > least)) return least;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

// The least even power of ten above the floor that is not below the value, so that the middle is a power of ten too.
export function decade(value, floor, least) {
  let top = floor * 100;
  while (top < Math.max(value, least) * 0.999) top *= 100;
  return top;
}

// Seconds below which `part` of the observations lie that came between two histograms; null when none came.
export function quantile(before, after, part) {
  const fresh = after.counts.map((value, index) => value - (before.counts[index] || 0));
  const total = fresh.reduce((sum, value) => sum + value, 0);
  if (total <= 0) return null;
  let seen = 0;
  for (const [index, value] of fresh.entries()) {
    if (value > 0 && seen + value >= part * total) {
      const low = index === 0 ? 0 : after.bounds[index - 1];
      const high = index < after.bounds.length ? after.bounds[index] : low;
      return low + ((part * total - seen) / value) * (high - low);
    }
    seen += value;
  }
  return after.bounds[after.bounds.length - 1];
}

export class Chart {
  // `lines` are class names, the most important first; `say` writes a value with its unit. With a `floor` each third of
  // the height is ten times the one below it, as is fit for values of which some are a thousand times others.
  constructor(parent, { title, lines, least, say, floor = 0 }) {
    this.say = say;
    this.least = least;
    this.floor = floor;
    this.values = lines.map(() => new Array(SAMPLES).fill(null));
    const card = make("section", "card chart");
    const head = make("div", "chart-head");
    this.title = title;
    const heading = make("h2", "", title);
    this.now = make("p", "now", "–");
    this.beside = make("p", "beside");
    head.append(heading, this.now, this.beside);
    this.svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    for (const y of [1, HEIGHT / 2, HEIGHT - 1]) this.svg.append(draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.area = draw("path", { class: `area ${lines[0]}` });
    this.svg.append(this.area);
    this.paths = lines.map((line) => draw("path", { class: `line ${line}` }));
    this.svg.append(...this.paths.slice().reverse());
    const plot = make("div", "plot");
    this.axes = ["top", "middle", "bottom"].map((place) => make("span", `axis axis-${place}`));
    plot.append(this.svg, ...this.axes);
    const foot = make("div", "chart-foot");
    foot.append(make("span", "", "3 min ago"), make("span", "", "now"));
    card.append(head, plot, foot);
    parent.append(card);
  }

  // One value for each line, null where it is not known; `seconds` after the last one.
  add(values, shown, beside, seconds = 1) {
    const missed = Math.min(SAMPLES, seconds) - 1;
    for (const [index, value] of values.entries()) {
      this.values[index] = [...this.values[index], ...new Array(missed).fill(null), value].slice(-SAMPLES);
    }
    write(this.now, shown);
    if (beside !== undefined) write(this.beside, beside);
    this.svg.setAttribute("aria-label", `${this.title}: ${shown}`);
    this.redraw();
  }

  redraw() {
    const known = this.values.flat().filter((value) => value !== null);
    const most = Math.max(0, ...known);
    const top = this.floor ? decade(most, this.floor, this.least) : ceiling(most, this.least);
    const part = this.floor
      ? (value) => Math.max(0, Math.log10(Math.max(value, this.floor) / this.floor) / Math.log10(top / this.floor))
      : (value) => value / top;
    const middle = this.floor ? Math.sqrt(top * this.floor) : top / 2;
    for (const [index, value] of [top, middle, this.floor].entries()) write(this.axes[index], value ? this.say(value) : "0");
    const place = (value, index) => [
      ((index * WIDTH) / (SAMPLES - 1)).toFixed(1),
      (HEIGHT - 1 - part(value) * (HEIGHT - 2)).toFixed(1),
    ];
    for (const [index, path] of this.paths.entries()) path.setAttribute("d", lineThrough(this.values[index], place));
    this.area.setAttribute("d", areaUnder(this.values[0], place));
  }
}

// Runs of known values, as [first index, values].
function runs(values) {
  const found = [];
  for (const [index, value] of values.entries()) {
    if (value === null) continue;
    if (index > 0 && values[index - 1] !== null && found.length) found[found.length - 1].push([index, value]);
    else found.push([[index, value]]);
  }
  return found;
}

function lineThrough(values, place) {
  return runs(values)
    .map((run) => `M${run.map(([index, value]) => place(value, index).join(" ")).join("L")}${run.length === 1 ? "h1" : ""}`)
    .join("");
}

function areaUnder(values, place) {
  return runs(values)
    .map((run) => {
      const points = run.map(([index, value]) => place(value, index));
      return `M${points[0][0]} ${HEIGHT}L${points.map((point) => point.join(" ")).join("L")}L${points.at(-1)[0]} ${HEIGHT}Z`;
    })
    .join("");
}
