// The page at /: asks for the state each second, follows the events by a connection of its own, and shows both.
//
// What it costs the relay: one stream client, and one answer of /v1/status a second, which all open pages share. A page
// that nobody sees asks for nothing. The token stays in this tab, and goes into a header or the hello, never a URL.

import { Banner } from "./banner.js";
import { Chart, quantile } from "./charts.js";
import { Link } from "./link.js";
import { Lists } from "./lists.js";
import { Tail } from "./tail.js";
import { count, latency, plural, rate, show, wall, write } from "./words.js";

const EVERY_MS = 1000;
const WITHIN_MS = 4000;
const HIDDEN_MS = 10000;
const SAMPLES = 30; // of the clocks
const ASLEEP_MS = 10000;
const TOKEN = "pgcachewatch-token";
const FANOUT = "commit_to_fanout_seconds";

const find = (id) => document.getElementById(id);

const CACHES =
  "Clients stop trusting their caches once their staleness bound is over, and read from the database. " +
  "This page tries again each second.";

// Why the state is not known, in words for the banner.
class Trouble extends Error {
  constructor(title, advice) {
    super(title);
    this.advice = advice;
  }
}

class Page {
  constructor() {
    this.token = sessionStorage.getItem(TOKEN) || "";
    this.clocks = []; // [the relay's time less that here when it was told, half of the way there and back]
    this.offset = 0;
    this.askedAt = 0;
    this.last = null;
    this.drawnAt = Date.now();
    this.loaded = ""; // the version that this page is of
    this.limits = { state: "", link: "", version: "" };
    this.timer = 0;
    this.hiding = 0;
    this.banner = new Banner();
    this.lists = new Lists();
    this.tail = new Tail(() => this.offset);
    this.makeCharts();
    const url = new URL("v1/ws", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.link = new Link(url, {
      event: (change) => this.tail.add(change),
      gap: (text) => this.tail.gap(text),
      state: (word, text) => this.linkState(word, text),
      refused: (text, isForbidden) => this.linkRefused(text, isForbidden),
    });
    find("ask-form").addEventListener("submit", (event) => this.useToken(event));
    find("forget").addEventListener("click", () => this.forget());
    find("filter-table").addEventListener("change", () => this.narrow());
    find("filter-channel").addEventListener("change", () => this.follow());
    document.addEventListener("keydown", (event) => this.pressed(event));
    document.addEventListener("visibilitychange", () => this.seen());
  }

  start() {
    show(find("forget"), Boolean(this.token));
    this.table = {};
    this.link.open(this.token, this.wish());
    this.ask();
  }

  makeCharts() {
    const place = find("charts");
    const seconds = (value) => latency(value * 1000);
    this.charts = {
      events: new Chart(place, { title: "Events per second", lines: ["main"], least: 10, say: rate }),
      latency: new Chart(place, {
        title: "Commit to client",
        lines: ["main", "second"],
        least: 0.1,
        floor: 0.0001,
        say: seconds,
      }),
      clients: new Chart(place, { title: "Clients", lines: ["main"], least: 10, say: count }),
    };
  }

  // --- the state, each second

  async ask() {
    clearTimeout(this.timer);
    const begun = performance.now();
    try {
      await this.askOnce();
    } catch (error) {
      const isKnown = error instanceof Trouble;
      if (!isKnown) console.info(error);
      const about = "It may be of another version than the relay: load it anew. The relay itself may be well.";
      this.banner.trouble(isKnown ? error.message : "This page can not read what the relay says", isKnown ? error.advice : about);
      this.hole();
    }
    if (document.hidden) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), Math.max(100, EVERY_MS - (performance.now() - begun)));
  }

  async askOnce() {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const token = this.token;
    const sent = wall();
    const answer = await this.read("v1/status", headers);
    const got = wall();
    if (token !== this.token) return;
    if (answer.status === 200) {
      const status = JSON.parse(answer.text);
      this.tell(status);
      this.setClock(status.now_s * 1000, sent, got);
      return;
    }
    const sentence = answer.text.trim().slice(0, 300);
    if (answer.status === 401) this.askForToken(sentence);
    else if (answer.status === 403) this.limit("state", `The state of the relay is not shown: ${sentence}.`);
    else throw new Trouble(`The relay's address answers with ${answer.status}`, `${sentence || "No reason is given."} ${CACHES}`);
    this.hole();
    const readiness = await this.read("readyz");
    this.banner.tellReadiness(JSON.parse(readiness.text));
  }

  async read(path, headers = {}) {
    try {
      const answer = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(WITHIN_MS) });
      return { status: answer.status, text: await answer.text() };
    } catch {
      throw new Trouble("The relay does not answer", `Is the process running, and does the way to it stand? ${CACHES}`);
    }
  }

  tell(status) {
    show(find("ask"), false);
    this.limit("state", "");
    document.body.dataset.known = "yes";
    this.loaded ||= status.version;
    const isOther = status.version !== this.loaded;
    this.limit("version", isOther ? `The relay is of version ${status.version} now, and this page of ${this.loaded}: load it anew.` : "");
    this.banner.tell(status);
    this.lists.fill(status);
    const last = this.last;
    this.last = status;
    const isSame = last !== null && status.uptime_s > last.uptime_s;
    const passed = isSame ? status.uptime_s - last.uptime_s : 0;
    if (last !== null && passed === 0 && status.uptime_s === last.uptime_s) return; // the answer that was kept
    const seconds = this.passed();
    this.drawEvents(status, isSame ? last : null, passed, seconds);
    this.drawLatency(status, isSame ? last : null, seconds);
    const plain = status.clients.plain;
    const beside = plain ? `${plural(plain, "published client")} among them` : plural(status.clients.invalidate + status.clients.stream, "subscription");
    this.charts.clients.add([status.clients.total], count(status.clients.total), beside, seconds);
  }

  // Since the charts were drawn last: a tab that slept leaves a hole as long as its sleep.
  passed() {
    const seconds = Math.max(1, Math.round((Date.now() - this.drawnAt) / 1000));
    this.drawnAt = Date.now();
    return seconds;
  }

  drawEvents(status, last, passed, seconds) {
    const perSecond = last === null ? null : Math.max(0, status.counts.events - last.counts.events) / passed;
    const shown = perSecond === null ? "–" : rate(perSecond);
    this.charts.events.add([perSecond], shown, `${count(status.counts.events)} since the relay began`, seconds);
  }

  drawLatency(status, last, passed) {
    const [before, after] = [last && last.histograms[FANOUT], status.histograms[FANOUT]];
    const parts = before && after ? [0.5, 0.99].map((part) => quantile(before, after, part)) : [null, null];
    const top = after && after.bounds.at(-1);
    const say = (seconds) => `${seconds >= top ? "over " : ""}${latency(seconds * 1000)}`;
    if (parts[0] !== null) this.latencyShown = parts.map(say);
    const [half, most] = this.latencyShown || ["–", ""];
    const beside = most ? `half of the events; 99 of 100 ${most.startsWith("over") ? "" : "within "}${most}` : "no event yet";
    this.charts.latency.add(parts, half, beside, passed);
  }

  // The state is not known: what was shown last is dimmed.
  hole() {
    this.last = null;
    document.body.dataset.known = "no";
    this.lists.unknown();
    const seconds = this.passed();
    this.charts.events.add([null], "–", undefined, seconds);
    this.charts.latency.add([null, null], "–", undefined, seconds);
    this.charts.clients.add([null], "–", undefined, seconds);
  }

  // The relay's clock against this one. An answer is of the past when it comes, by its way here and by how long the
  // relay had kept it, so of the last ones that which is the least behind is the best.
  setClock(theirs, sent, got) {
    if (got - this.askedAt > ASLEEP_MS) this.clocks = []; // either clock may be another one by now
    this.askedAt = got;
    this.clocks.push([theirs - got, (got - sent) / 2]);
    if (this.clocks.length > SAMPLES) this.clocks.shift();
    const [least, way] = this.clocks.reduce((best, one) => (one[0] > best[0] ? one : best));
    this.offset = least + way;
  }

  // --- tokens

  askForToken(sentence) {
    show(find("ask"), true);
    const problem = this.token ? `The token was refused: ${sentence}` : "";
    write(find("ask-problem"), problem);
    show(find("ask-problem"), Boolean(problem));
  }

  useToken(event) {
    event.preventDefault();
    this.token = find("token").value.trim();
    find("token").value = "";
    sessionStorage.setItem(TOKEN, this.token);
    this.limit("state", "");
    this.limit("link", "");
    show(find("ask"), false);
    this.tail.clear();
    this.start();
  }

  forget() {
    sessionStorage.removeItem(TOKEN);
    location.reload();
  }

  // What the token does not allow, of the state and of the link.
  limit(of, text) {
    this.limits[of] = text;
    const said = Object.values(this.limits).filter(Boolean).join("\n");
    write(find("limited"), said);
    show(find("limited"), Boolean(said));
  }

  // --- the events

  linkState(word, text) {
    if (word === "live") this.limit("link", "");
    this.tail.now(word, word === "live" ? text : "");
  }

  linkRefused(text, isForbidden) {
    this.tail.now("refused");
    if (!isForbidden) {
      this.askForToken(text);
      return;
    }
    this.limit("link", `No live tail: ${text}. To follow one table, or another channel, write its name above the tail.`);
  }

  // What the tail asks the relay for: the relay's own channel unless one is named.
  wish() {
    const channel = find("filter-channel").value.trim();
    return { ...(channel && { channel }), ...this.table };
  }

  // Another channel: rows of one are not mixed with those of another.
  follow() {
    this.tail.clear();
    this.limit("link", "");
    this.link.open(this.token, this.wish());
  }

  // Who may not see every table may see the one that is named: it is asked for alone.
  narrow() {
    if (!this.limits.link && !this.table.table) return;
    const [name, ...rest] = find("filter-table").value.trim().split(".").reverse();
    if (!name) return;
    this.table = rest.length ? { schema: rest.reverse().join("."), table: name } : { table: name };
    this.link.open(this.token, this.wish());
  }

  // --- the person

  seen() {
    clearTimeout(this.hiding);
    if (document.hidden) {
      this.hiding = setTimeout(() => this.link.close(), HIDDEN_MS);
      clearTimeout(this.timer);
      return;
    }
    if (!this.link.isWanted) {
      this.tail.gap("Nothing was followed while this tab was hidden.");
      this.link.open(this.token);
    }
    this.last = null;
    this.ask();
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    if (event.key === "/") {
      event.preventDefault();
      find("filter-text").focus();
    } else if (event.key === "p") {
      this.tail.pause(!this.tail.isPaused);
    }
  }
}

new Page().start();
