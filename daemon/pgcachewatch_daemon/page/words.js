// How numbers, times and sizes are written, and how an element is made: always from text, never from markup.

export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = visible(text);
  return element;
}

// What can not be seen is written out, as in a terminal: a name may hold signs that turn others around on the screen.
export function visible(text) {
  return text.replace(/(?!\n)[\p{C}\p{Zl}\p{Zp}]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
}

// A text of a stranger, of bounded length; that it was cut is seen, and the whole of it is under the pointer.
export function writeShort(element, text, most) {
  const short = text.length > most ? `${text.slice(0, most)}…` : text;
  write(element, short);
  const title = short === text ? "" : visible(text);
  if (element.title !== title) element.title = title;
}

// Writes only what differs: a page that writes everything each second takes selections away.
export function write(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

export function count(value) {
  return Math.round(value).toLocaleString("en-US");
}

export function rate(value) {
  if (value >= 100 || value === 0) return count(value);
  return value.toFixed(value >= 10 || value % 1 === 0 ? 0 : 1);
}

export function duration(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export function latency(milliseconds) {
  if (milliseconds < 10 && milliseconds % 1) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 1 : 0)} s`;
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

// The wall clock, with its fraction. performance.now() stands still while a machine sleeps and does not follow a clock
// that is set; Date.now() has no fraction. While they agree the finer one counts.
const APART_MS = 50;
let origin = performance.timeOrigin;

export function wall() {
  const [fine, coarse] = [origin + performance.now(), Date.now()];
  if (Math.abs(fine - coarse) <= APART_MS) return fine;
  origin += coarse - fine;
  return coarse;
}

// Where `clock` is told for, as UTC+2: who compares with a log has to know.
export function zone() {
  const minutes = -new Date().getTimezoneOffset();
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  return minutes === 0 ? "UTC" : `UTC${minutes < 0 ? "−" : "+"}${hours}${rest ? `:${String(rest).padStart(2, "0")}` : ""}`;
}

export function clock(milliseconds) {
  const at = new Date(milliseconds);
  const two = (value) => String(value).padStart(2, "0");
  const thousandths = String(at.getMilliseconds()).padStart(3, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${thousandths}`;
}

export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}
