// The page at /: asks for the state each second, follows the events by a connection of its own, and shows both.
//
// What it costs the relay: one stream client, and one answer of /v1/status a second, which all open pages share. A page
// that nobody sees asks for nothing. The token stays in this tab, and goes into a header or the hello, never a URL.

import { Banner } from "./banner.js";
import { Chart, quantile } from "./charts.js";
import { Link } from "./link.js";
import { Lists } from "./lists.js";
import { Tail } from "./tail.js";
import { count, latency, plural, rate, show, write } from "./words.js";

const EVERY_MS = 1000;
const WITHIN_MS = 4000;
const HIDDEN_MS = 10000;
const TOKEN = "pgcachewatch-token";
const FANOUT = "commit_to_fanout_seconds";

const find = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.token = sessionStorage.getItem(TOKEN) || "";
    this.offset = { ms: 0, error: Infinity };
    this.last = null;
    this.limits = { state: "", link: "" };
    this.timer = 0;
    this.hiding = 0;
    this.banner = new Banner();
    this.lists = new Lists();
    this.tail = new Tail(() => this.offset.ms);
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
    document.addEventListener("keydown", (event) => this.pressed(event));
    document.addEventListener("visibilitychange", () => this.seen());
  }

  start() {
    show(find("forget"), Boolean(this.token));
    this.isNarrow = false;
    this.link.open(this.token, {});
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
    } catch {
      this.banner.silent();
      this.hole();
    }
    if (document.hidden) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), Math.max(100, EVERY_MS - (performance.now() - begun)));
  }

  async askOnce() {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const token = this.token;
    const sent = performance.now();
    const answer = await fetch("v1/status", { headers, cache: "no-store", signal: AbortSignal.timeout(WITHIN_MS) });
    if (token !== this.token) return;
    if (answer.ok) {
      const status = await answer.json();
      this.setClock(status.now_s * 1000, sent, performance.now());
      this.tell(status);
      return;
    }
    const sentence = (await answer.text()).trim();
    if (answer.status === 401) this.askForToken(sentence);
    else if (answer.status === 403) this.limit("state", `The state of the relay is not shown: ${sentence}.`);
    else throw new Error(sentence);
    this.hole();
    const readiness = await fetch("readyz", { cache: "no-store", signal: AbortSignal.timeout(WITHIN_MS) });
    this.banner.tellReadiness(await readiness.json());
  }

  tell(status) {
    show(find("ask"), false);
    this.limit("state", "");
    document.body.dataset.known = "yes";
    this.banner.tell(status);
    this.lists.fill(status);
    const last = this.last;
    this.last = status;
    const isSame = last !== null && status.uptime_s > last.uptime_s;
    const passed = isSame ? status.uptime_s - last.uptime_s : 0;
    if (last !== null && passed === 0 && status.uptime_s === last.uptime_s) return; // the answer that was kept
    this.drawEvents(status, isSame ? last : null, passed);
    this.drawLatency(status, isSame ? last : null);
    const plain = status.clients.plain;
    const beside = plain ? `${plural(plain, "published client")} among them` : plural(status.clients.invalidate + status.clients.stream, "subscription");
    this.charts.clients.add([status.clients.total], count(status.clients.total), beside);
  }

  drawEvents(status, last, passed) {
    const perSecond = last === null ? null : Math.max(0, status.counts.events - last.counts.events) / passed;
    const shown = perSecond === null ? "–" : rate(perSecond);
    this.charts.events.add([perSecond], shown, `${count(status.counts.events)} since the relay began`);
  }

  drawLatency(status, last) {
    const [before, after] = [last && last.histograms[FANOUT], status.histograms[FANOUT]];
    const parts = before && after ? [0.5, 0.99].map((part) => quantile(before, after, part)) : [null, null];
    if (parts[0] !== null) this.latencyShown = parts.map((seconds) => latency(seconds * 1000));
    const [half, most] = this.latencyShown || ["–", ""];
    this.charts.latency.add(parts, half, most ? `half of the events; 99 of 100 within ${most}` : "no event yet");
  }

  // The state is not known: what was shown last is dimmed.
  hole() {
    this.last = null;
    document.body.dataset.known = "no";
    this.lists.unknown();
    this.charts.events.add([null], "–");
    this.charts.latency.add([null, null], "–");
    this.charts.clients.add([null], "–");
  }

  // The relay's clock against this one: the shorter the way there and back, the better it is known.
  setClock(theirs, sent, got) {
    const error = (got - sent) / 2;
    if (error > this.offset.error * 1.01 + 0.05) return;
    this.offset = { ms: theirs - (performance.timeOrigin + sent + error), error };
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
    this.limit("link", `No live tail: ${text}. To follow one table, write its name into the tail's table filter.`);
  }

  // Who may not see every table may see the one that is named: it is asked for alone.
  narrow() {
    if (!this.limits.link && !this.isNarrow) return;
    const [name, ...rest] = find("filter-table").value.trim().split(".").reverse();
    if (!name) return;
    this.isNarrow = true;
    this.link.open(this.token, rest.length ? { schema: rest.reverse().join("."), table: name } : { table: name });
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
