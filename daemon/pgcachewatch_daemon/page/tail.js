// The live tail: the newest events that match what is asked for, and the gaps among them.
//
// Bounds: ROWS are shown, RECENT are kept to be filtered anew, and rows are written at most once in WRITE_MS, so that a
// flood of events costs a browser no more than a trickle.

import { clock, count, latency, make, plural, show, visible, wall, write, writeShort, zone } from "./words.js";

const ROWS = 500;
const RECENT = 2000;
const WRITE_MS = 120;
const KEYS = 6;
const TEXT_LENGTH = 200;
const AHEAD_MS = 50;

const STATES = {
  connecting: "connecting…",
  live: "live",
  stale: "waits for PostgreSQL",
  lost: "connecting again…",
  closed: "off",
  refused: "refused",
};

export class Tail {
  constructor(clockOffset) {
    const find = (id) => document.getElementById(id);
    this.clockOffset = clockOffset;
    this.rows = find("rows");
    this.empty = find("rows-empty");
    this.stateText = find("tail-state");
    this.pauseButton = find("pause");
    this.table = find("filter-table");
    this.operation = find("filter-operation");
    this.text = find("filter-text");
    this.recent = [];
    this.fresh = [];
    this.timer = 0;
    this.isPaused = false;
    this.missed = 0;
    this.state = "connecting";
    this.detail = "";
    for (const field of [this.table, this.operation, this.text]) field.addEventListener("input", () => this.refill());
    find("filters").addEventListener("submit", (event) => event.preventDefault());
    find("clear").addEventListener("click", () => this.clear());
    this.pauseButton.addEventListener("click", () => this.pause(!this.isPaused));
    write(find("zone"), zone());
    this.told();
  }

  add(change) {
    this.recent.push(change);
    if (this.recent.length > 2 * RECENT) this.recent.splice(0, this.recent.length - RECENT);
    if (this.isPaused) {
      this.missed += 1;
    } else {
      this.fresh.push(change);
      if (this.fresh.length > 2 * RECENT) this.fresh.splice(0, this.fresh.length - RECENT);
    }
    if (this.timer === 0) this.timer = setTimeout(() => this.flush(), WRITE_MS);
  }

  gap(text) {
    this.add({ operation: "gap", table: "", schema: "", keys: null, text, seenAt: wall() });
  }

  now(state, detail = "") {
    this.state = state;
    this.detail = detail;
    this.told();
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.pauseButton.dataset.state = isPaused ? "paused" : "";
    write(this.pauseButton, isPaused ? "Go on" : "Pause");
    if (!isPaused) this.refill();
    this.told();
  }

  clear() {
    this.recent = [];
    this.refill();
  }

  // The filter, or what is kept, is another one: all rows anew.
  refill() {
    this.missed = 0;
    this.fresh = [];
    this.rows.replaceChildren();
    this.put(this.recent.slice(-RECENT).filter((change) => this.matches(change)));
    this.told();
  }

  flush() {
    this.timer = 0;
    const fresh = this.fresh.filter((change) => this.matches(change));
    this.fresh = [];
    this.put(fresh);
    this.told();
  }

  put(changes) {
    const made = changes.slice(-ROWS).reverse().map((change) => this.row(change));
    this.rows.prepend(...made);
    while (this.rows.rows.length > ROWS) this.rows.deleteRow(-1);
    show(this.empty, this.rows.rows.length === 0);
  }

  told() {
    const words = [this.detail && this.state !== "live" ? this.detail : STATES[this.state]];
    if (this.isPaused) words.push(`paused, ${plural(this.missed, "new event")}`);
    else if (this.isFiltered) words.push(`${plural(this.rows.rows.length, "row")} of this filter`);
    write(this.stateText, words.join(" · "));
    this.stateText.dataset.state = this.state;
    write(this.empty, this.isFiltered && this.recent.length ? "No event matches this filter." : "Waiting for events.");
  }

  get isFiltered() {
    return Boolean(this.table.value.trim() || this.operation.value || this.text.value.trim());
  }

  matches(change) {
    const table = this.table.value.trim().toLowerCase();
    const text = this.text.value.trim().toLowerCase();
    const place = change.schema ? `${change.schema}.${change.table}` : change.table;
    if (this.operation.value && change.operation !== this.operation.value) return false;
    if (table && !place.toLowerCase().includes(table)) return false;
    if (!text) return true;
    return [change.text || "", place, ...(change.keys || [])].some((part) => part.toLowerCase().includes(text));
  }

  row(change) {
    const row = make("tr");
    row.append(make("td", "time", clock(change.seenAt)));
    if (change.operation === "gap") {
      row.className = "gap";
      const text = make("td", "", change.text);
      text.colSpan = 4;
      row.append(text);
      return row;
    }
    const operation = make("td");
    operation.append(make("span", `operation ${change.operation}`, change.operation));
    const table = make("td", "place");
    if (change.schema && change.schema !== "public") table.append(make("span", "schema", `${change.schema}.`));
    table.append(visible(change.table.slice(0, TEXT_LENGTH)));
    row.append(operation, table, this.keys(change.keys));
    row.append(make("td", "number", this.late(change)));
    return row;
  }

  // From the statement on, by the clock of the relay. Two clocks are never alike to a millisecond, so a little less than
  // nothing is little; where the database's is further ahead, there is no saying.
  late(change) {
    const late = change.seenAt + this.clockOffset() - change.sentAt;
    if (!Number.isFinite(late) || late < -AHEAD_MS) return "–";
    return late < 1 ? "< 1 ms" : latency(late);
  }

  keys(keys) {
    const cell = make("td", "keys");
    if (keys === null) {
      cell.append(make("span", "whole", "the whole table"));
      return cell;
    }
    for (const key of keys.slice(0, KEYS)) {
      const code = make("code");
      writeShort(code, key, TEXT_LENGTH);
      cell.append(code);
    }
    if (keys.length > KEYS) cell.append(make("span", "whole", `and ${count(keys.length - KEYS)} more`));
    return cell;
  }
}
