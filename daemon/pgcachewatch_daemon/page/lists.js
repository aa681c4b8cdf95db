// The lists of the relay's state: tables, clients, findings and figures. Rows stay where they are and only what differs
// is written, so that nothing jumps under a pointer.

import { count, duration, make, plural, rate, show, size, write, writeShort } from "./words.js";

// As many rows as items; `make` builds one, `fill` writes an item into it.
function fillRows(body, items, build, fill) {
  while (body.children.length > items.length) body.lastElementChild.remove();
  while (body.children.length < items.length) body.append(build());
  for (const [index, item] of items.entries()) fill(body.children[index], item);
}

function cells(...classes) {
  const row = make("tr");
  for (const name of classes) row.append(make("td", name));
  return row;
}

const NAME_LENGTH = 48;
const BEHIND_S = 300; // of a consumer, as the alert has it

function mark(element, state) {
  if (element.dataset.state !== state) element.dataset.state = state;
}

const STATES = {
  live: ["live", "is told each event at once"],
  joining: ["joining", "is being let in"],
  slow: ["slow", "does not read as fast as events come"],
  conflating: ["conflating", "reads so slowly that its events were collapsed; it drops more than it would have to"],
};

export class Lists {
  constructor() {
    const find = (id) => document.getElementById(id);
    this.parts = Object.fromEntries(
      ["tables", "tables-count", "tables-empty", "clients", "clients-count", "clients-empty", "drift", "drift-count"]
        .concat(["findings", "figures", "consumers", "consumers-card", "consumers-count"])
        .map((id) => [id, find(id)]),
    );
  }

  // Nothing was told yet, or nothing is told any more.
  unknown() {
    write(this.parts["tables-empty"], "Not known now.");
    write(this.parts["clients-empty"], "Not known now.");
  }

  fill(status) {
    write(this.parts["tables-empty"], "No event yet. A table is listed once it changes.");
    write(this.parts["clients-empty"], "Nobody is connected.");
    this.tables(status.tables);
    this.clients(status.clients);
    this.drift(status.drift);
    this.consumers(status.consumers);
    this.figures(status);
  }

  tables({ listed, total }) {
    const named = listed.map((one) => ({ ...one, place: one.schema && one.schema !== "public" ? `${one.schema}.${one.table}` : one.table }));
    named.sort((one, other) => one.place.localeCompare(other.place));
    const build = () => cells("place", "", "number", "number");
    fillRows(this.parts.tables, named, build, (row, one) => {
      write(row.cells[0], one.place);
      write(row.cells[1], one.operation);
      mark(row.cells[1], one.operation === "gap" ? "slow" : "");
      write(row.cells[2], duration(one.age_s));
      write(row.cells[3], one.recent ? rate(one.recent / 10) : "");
      mark(row, one.age_s < 2 ? "fresh" : "");
    });
    write(this.parts["tables-count"], listed.length < total ? `${count(listed.length)} of ${count(total)}` : count(total));
    show(this.parts["tables-empty"], listed.length === 0);
  }

  clients({ listed, total }) {
    const build = () => {
      const row = cells("client", "", "number", "", "number");
      row.cells[0].append(make("span", "name"), make("span", "peer"));
      row.cells[1].append(make("span", "state"));
      return row;
    };
    fillRows(this.parts.clients, listed, build, (row, one) => {
      const [name, peer] = row.cells[0].children;
      writeShort(name, one.name || (one.path === "plain" ? "published client" : "without a name"), NAME_LENGTH);
      write(peer, [one.subject, one.peer].filter(Boolean).join(" · "));
      const [word, meaning] = STATES[one.state] || [one.state, ""];
      const state = row.cells[1].firstElementChild;
      write(state, word);
      mark(state, one.state);
      state.title = meaning;
      write(row.cells[2], behind(one));
      write(row.cells[3], subscriptions(one));
      write(row.cells[4], duration(one.connected_s));
    });
    write(this.parts["clients-count"], listed.length < total ? `${count(listed.length)} of ${count(total)}` : count(total));
    show(this.parts["clients-empty"], listed.length === 0);
  }

  consumers({ listed, total }) {
    show(this.parts["consumers-card"], total > 0);
    write(this.parts["consumers-count"], listed.length < total ? `${count(listed.length)} of ${count(total)}` : count(total));
    const build = () => cells("place", "number", "number", "number");
    fillRows(this.parts.consumers, listed, build, (row, one) => {
      writeShort(row.cells[0], one.name, NAME_LENGTH);
      write(row.cells[1], count(one.clients));
      write(row.cells[2], one.pending === null ? "not known here" : plural(one.pending, "job"));
      write(row.cells[3], one.lag_s ? duration(one.lag_s) : "nothing waits");
      mark(row.cells[3], one.lag_s > BEHIND_S ? "slow" : "");
    });
  }

  drift({ findings, listed }) {
    show(this.parts.drift, findings > 0);
    write(this.parts["drift-count"], findings > listed.length ? `${listed.length} of ${count(findings)}` : count(findings));
    const build = () => {
      const item = make("li");
      item.append(make("strong"), make("span", "detail"), make("code", "remedy"));
      return item;
    };
    fillRows(this.parts.findings, listed, build, (item, one) => {
      const [table, detail, remedy] = item.children;
      write(table, one.table || one.kind);
      write(detail, one.detail);
      write(remedy, one.remedy);
    });
  }

  figures(status) {
    const { counts, history, postgres, workers } = status;
    const rows = [
      ["Up for", duration(status.uptime_s)],
      ["Events read", count(counts.events)],
      ["Unreadable", count(counts.gaps)],
      ["Frames sent", count(counts.frames)],
      ["Bytes sent", size(counts.bytes)],
      ["Kept for resume", `${plural(history.events, "event")}, ${size(history.bytes)}`],
      ["Slow readers' conflations", count(counts.conflations)],
      ["Cut as stalled", count(counts.stalls)],
      ["Epochs", count(counts.epochs)],
      ["Losses of PostgreSQL", count(postgres.losses)],
      ["Notification queue", `${(postgres.queue_usage * 100).toFixed(postgres.queue_usage < 0.1 ? 1 : 0)} %`],
      ["Mode", postgres.mode],
      ["Workers", `${count(workers.alive)}${workers.restarts ? `, ${plural(workers.restarts, "restart")}` : ""}`],
    ];
    const build = () => {
      const pair = make("div");
      pair.append(make("dt"), make("dd"));
      return pair;
    };
    fillRows(this.parts.figures, rows, build, (pair, [name, value]) => {
      write(pair.children[0], name);
      write(pair.children[1], value);
    });
  }
}

function behind(client) {
  const words = [];
  if (client.behind) words.push(plural(client.behind, "event"));
  if (client.pending_bytes) words.push(size(client.pending_bytes));
  return words.join(", ") || "0";
}

function subscriptions(client) {
  const words = [];
  if (client.invalidate) words.push(`${count(client.invalidate)} cache`);
  if (client.stream) words.push(`${count(client.stream)} stream`);
  return words.join(", ") || "none";
}
