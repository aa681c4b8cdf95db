// What a person has to know first: do events flow, and if not, since when, why, and what to do about it.

import { duration, make, show, write } from "./words.js";

const GOOD = new Set(["flowing"]);
const WAITING = new Set(["waiting", "starting", "draining"]);
// Without a token that shows the state there is no more to go by than which check fails.
const UNREADY = {
  source: "PostgreSQL is not there",
  loopback: "Events are not proven to flow",
  accepting: "The relay is going away",
};
const ADVICE =
  "Clients stop trusting their caches once their staleness bound is over, and read from the database. " +
  "Why it is so, and what to do, is told to who has a token with the mode status, and in the relay's log.";
const NAMES = { source: "PostgreSQL", loopback: "Proof of flow", accepting: "Lets clients in" };

export class Banner {
  constructor() {
    const find = (id) => document.getElementById(id);
    this.banner = find("banner");
    this.title = find("title");
    this.since = find("since");
    this.advice = find("advice");
    this.server = find("server");
    this.checks = find("checks");
    this.node = find("node");
    this.version = find("version");
    this.silentSince = null;
  }

  // The state as the relay tells it.
  tell(status) {
    this.silentSince = null;
    const { health, postgres } = status;
    this.say(health.state, health.title, health.since_s, health.advice);
    this.list(status.checks);
    const version = postgres.version ? `PostgreSQL ${postgres.version}` : "PostgreSQL";
    write(this.server, postgres.server ? `${version} · ${place(postgres.server)}` : version);
    write(this.node, status.node);
    write(this.version, `version ${status.version}`);
  }

  // Only what /readyz tells, which needs no token.
  tellReadiness({ ready, checks }) {
    this.silentSince = null;
    const found = Object.entries(checks).map(([name, check]) => ({ name, ...check }));
    const failing = found.find((check) => !check.ok);
    if (ready) this.say("flowing", "Events are flowing", checks.source.since_s, "");
    else this.say("lost", UNREADY[failing.name] || `Not ready: ${failing.name}`, failing.since_s, ADVICE);
    this.list(found);
  }

  // The state is not known: nobody answers, or somebody else does.
  trouble(title, advice) {
    this.silentSince ??= Date.now();
    this.say("silent", title, (Date.now() - this.silentSince) / 1000, advice);
    this.list([]);
  }

  say(state, title, sinceS, advice) {
    const isGood = GOOD.has(state);
    this.banner.dataset.state = isGood ? "good" : WAITING.has(state) ? "waiting" : "bad";
    write(this.title, title);
    const since = `${isGood ? "for" : "since"} ${duration(Math.max(1, sinceS))}`;
    write(this.since, since);
    write(this.advice, advice);
    show(this.advice, Boolean(advice));
    document.title = `${isGood ? "✓" : "✗"} ${title} · pgcachewatch`;
  }

  list(checks) {
    while (this.checks.children.length > checks.length) this.checks.lastElementChild.remove();
    while (this.checks.children.length < checks.length) {
      const item = make("li");
      item.append(make("span", "dot"), make("span", "check"), make("span", "check-since"));
      this.checks.append(item);
    }
    for (const [index, check] of checks.entries()) {
      const item = this.checks.children[index];
      item.dataset.state = check.ok ? "good" : "bad";
      write(item.children[1], NAMES[check.name] || check.name);
      write(item.children[2], sinceOf(check));
    }
  }
}

// Who and where: what else a DSN has is for machines.
function place(server) {
  return server.replace(/^\w+:\/\//, "").replace(":***@", "@");
}

function sinceOf(check) {
  const lasted = duration(Math.max(1, check.since_s));
  if (check.name === "loopback") return check.ok ? `${check.since_s.toFixed(1)} s old` : `none for ${lasted}`;
  if (check.ok && check.name === "accepting") return "yes";
  return check.ok ? `for ${lasted}` : `failing for ${lasted}`;
}
