// One connection to the relay by its public protocol (PROTOCOL.md), as a stream that is told each event.
//
// The chain of positions shows that nothing was left out: where it breaks, and where the relay can not replay what was
// missed, the tail is told of a gap. A connection that is lost is made anew for ever, with pauses that grow; whoever was
// refused for good waits for another token.

import { wall } from "./words.js";

const SUBPROTOCOL = "pgcachewatch.v1";
const OPERATIONS = { i: "insert", u: "update", d: "delete", t: "truncate" };
const PAUSE_LEAST_MS = 250;
const PAUSE_MOST_MS = 5000;
const SILENT_MS = 4000; // then a ping is sent, and after as long again the connection is taken for dead
const LASTING_MS = 5000;
const OF_TOKENS = new Set([4200, 4201, 4301]);
const REASONS = {
  unreadable: "a notification could not be read",
  source_lost: "PostgreSQL was lost",
  overflow: "this page did not read as fast as events came",
  table_wide: "which rows is not known",
  forced: "a flush was asked for",
  pruned: "the journal does not reach back that far",
};

export class Link {
  // `told` has event(change), gap(text), state(word, text) and refused(text).
  constructor(url, told) {
    this.url = url;
    this.told = told;
    this.token = "";
    this.wish = {};
    this.cursor = null;
    this.socket = null;
    this.timer = 0;
    this.watch = 0;
    this.failures = 0;
    this.heardAt = 0;
    this.leaving = null;
    this.liveAt = null;
    this.isWanted = false;
  }

  // Begin, or begin again: with another token, or with a wish such as {channel: "shop", table: "orders"}. What was
  // followed so far is gone on with, unless the wish is another one.
  open(token, wish = this.wish) {
    if (JSON.stringify(wish) !== JSON.stringify(this.wish)) this.cursor = null;
    this.token = token;
    this.wish = wish;
    this.isWanted = true;
    this.failures = 0;
    this.drop();
    this.connect();
  }

  // Stop, and forget the position: what happens until the next `open` is not asked for.
  close() {
    this.isWanted = false;
    this.cursor = null;
    this.drop();
    this.told.state("closed", "");
  }

  drop() {
    clearTimeout(this.timer);
    clearInterval(this.watch);
    const socket = this.socket;
    this.socket = null;
    if (socket !== null) socket.close(1000);
  }

  connect() {
    this.leaving = null;
    this.liveAt = null;
    this.told.state("connecting", "");
    const socket = new WebSocket(this.url, SUBPROTOCOL);
    this.socket = socket;
    socket.onopen = () => this.socket === socket && this.hello();
    socket.onmessage = (message) => this.socket === socket && this.receive(message.data);
    socket.onclose = (close) => this.socket === socket && this.lost(close);
  }

  hello() {
    const subscription = { t: "sub", id: 1, mode: "stream", ...this.wish };
    const hello = { t: "hello", v: 1, caps: [], name: "status page", subs: [subscription] };
    if (this.token) hello.token = this.token;
    if (this.cursor !== null) hello.resume = this.cursor;
    this.socket.send(JSON.stringify(hello));
    this.heardAt = performance.now();
    this.watch = setInterval(() => this.look(), 1000);
  }

  look() {
    const silent = performance.now() - this.heardAt;
    if (silent > 2 * SILENT_MS) this.end("the relay is silent");
    else if (silent > SILENT_MS) this.socket.send(JSON.stringify({ t: "ping", id: 2 }));
  }

  receive(text) {
    this.heardAt = performance.now();
    const read = JSON.parse(text);
    for (const message of Array.isArray(read) ? read : [read]) {
      if (this.socket === null) return;
      this.take(message);
    }
  }

  take(message) {
    switch (message.t) {
      case "welcome":
        if (this.cursor !== null && !message.resumed) this.told.gap("What happened while the connection was lost is not known.");
        if (!message.resumed) this.cursor = { e: message.e, s: message.s };
        break;
      case "subok":
        this.liveAt = performance.now();
        this.told.state("live", message.notice || "");
        break;
      case "ev":
        if (this.follows(message)) for (const item of message.i) this.item(item);
        break;
      case "mark":
        this.follows(message);
        break;
      case "reset":
        this.cursor = { e: message.e, s: message.s };
        this.told.gap("PostgreSQL is back. What happened meanwhile is not known, so caches were flushed.");
        this.told.state("live", "");
        break;
      case "stale":
        this.told.state("stale", message.reason);
        break;
      case "err":
        if (message.id === 1 && message.retry) this.later(message.after_ms || 1000);
        else if (message.id === 1) this.told.refused(message.message, true);
        break;
      case "bye":
        this.leaving = message;
        break;
    }
  }

  // The relay will know more in a moment: ask again then.
  later(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(this.token), milliseconds);
  }

  follows(message) {
    if (message.p === this.cursor.s) {
      this.cursor.s = message.s;
      return true;
    }
    this.cursor = null;
    this.told.gap("A message is missing in the stream. It begins anew.");
    this.end("the chain broke");
    return false;
  }

  item([, letter, key, detail]) {
    const operation = OPERATIONS[letter];
    if (operation === undefined || detail === undefined || typeof detail.table !== "string") {
      const place = detail && detail.table ? `Table ${detail.table}` : "Anything";
      const reason = (detail && (REASONS[detail.reason] || detail.reason)) || "why is not known";
      this.told.gap(`${place} may have changed: ${reason}.`);
      return;
    }
    this.told.event({
      operation,
      table: detail.table,
      schema: detail.schema || "",
      keys: Array.isArray(detail.keys) ? detail.keys.map(String) : key === null ? null : [String(key)],
      sentAt: instant(detail.sent_at),
      seenAt: wall(),
    });
  }

  end(reason) {
    this.drop();
    if (this.isWanted) this.again(PAUSE_LEAST_MS, reason);
  }

  lost(close) {
    this.drop();
    if (!this.isWanted) return;
    if (OF_TOKENS.has(close.code) || Math.floor(close.code / 100) === 43) {
      this.told.refused(close.reason || `the relay closed with ${close.code}`, !OF_TOKENS.has(close.code));
      return;
    }
    // One that is closed again at once, as for not reading fast enough, is not asked for again at once.
    if (this.liveAt !== null && performance.now() - this.liveAt > LASTING_MS) this.failures = 0;
    const bye = this.leaving;
    if (bye !== null) this.again(bye.after_ms + Math.random() * bye.jitter_ms, close.reason);
    else this.again(Math.min(PAUSE_MOST_MS, PAUSE_LEAST_MS * 2 ** this.failures) * (0.5 + Math.random() / 2), close.reason);
  }

  again(milliseconds, reason) {
    this.failures = Math.min(this.failures + 1, 10);
    this.told.state("lost", reason);
    this.timer = setTimeout(() => this.connect(), milliseconds);
  }
}

// Milliseconds with their fraction: Date keeps three digits of the six that PostgreSQL writes.
export function instant(text) {
  const at = Date.parse(text);
  const digits = /\.\d{3}(\d{1,3})/.exec(text);
  return digits === null ? at : at + Number(`0.${digits[1]}`);
}
