// What both pages use: building elements, words for time, and a socket that comes back.

// el makes an element. Strings become text nodes, so nothing that was said by a repository or a log is ever read as HTML.
export function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

// status is the icon and the word of a state.
export function status(word) {
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("class", "icon");
  icon.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", "/static/icons.svg#" + word);
  icon.append(use);
  return el("span", { class: "status", "data-status": word }, icon, el("span", { class: "word" }, word));
}

export const isFinal = (word) => ["success", "failure", "error", "cancelled", "skipped"].includes(word);

// duration is how long something took, or has taken so far.
export function duration(from, to) {
  if (!from) return "";
  const ms = Math.max((to ? Date.parse(to) : Date.now()) - Date.parse(from), 0);
  if (ms < 1000) return to ? Math.round(ms) + "ms" : "0s";
  const s = Math.round(ms / 1000);
  if (s < 60) return s + "s";
  if (s < 3600) return Math.floor(s / 60) + "m" + (s % 60) + "s";
  return Math.floor(s / 3600) + "h" + Math.floor((s % 3600) / 60) + "m";
}

// took shows a duration, and keeps counting while there is no end.
export function took(from, to) {
  const span = el("span", { class: "took" }, duration(from, to));
  if (from && !to) span.dataset.from = from;
  return span;
}

// when shows a time as people say it; the exact one is its title.
export function when(time) {
  const exact = new Date(time);
  return el("time", { datetime: time, title: exact.toLocaleString() }, ago(exact));
}

function ago(date) {
  const s = Math.round((Date.now() - date) / 1000);
  if (s < 5) return "just now";
  if (s < 60) return s + " seconds ago";
  if (s < 3600) return plural(Math.floor(s / 60), "minute");
  if (s < 86400) return plural(Math.floor(s / 3600), "hour");
  return date.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
}

const plural = (n, unit) => n + " " + unit + (n === 1 ? "" : "s") + " ago";

// tick renews what time changes, once a second.
export function tick() {
  setInterval(() => {
    for (const span of document.querySelectorAll(".took[data-from]")) span.textContent = duration(span.dataset.from, null);
    for (const time of document.querySelectorAll("time[title]")) {
      const text = ago(new Date(time.dateTime));
      if (time.textContent !== text) time.textContent = text;
    }
  }, 1000);
}

// source is where a run's commit comes from.
export function source(run) {
  const url = run.repository;
  const name = url.startsWith("https://") ? url.split("/").slice(3).join("/") : url.split("/").pop();
  return [
    el("bdi", { class: "repository", title: url }, name),
    " ",
    run.ref ? el("bdi", { class: "ref" }, run.ref.replace(/^refs\/(heads|tags)\//, "")) : "",
    " ",
    run.head_sha ? el("code", { class: "sha", title: run.head_sha }, run.head_sha.slice(0, 10)) : "",
  ];
}

export const heading = (run) => run.title || "Run " + run.id;

// connect opens a socket, and again whenever it ends; hello is called on each opening. It returns what sends.
export function connect(path, hello, receive) {
  const notice = document.getElementById("connection");
  let socket = null;
  let tries = 0;
  const open = () => {
    socket = new WebSocket(new URL(path, location.href).href.replace(/^http/, "ws"));
    socket.onopen = () => {
      tries = 0;
      notice.textContent = "";
      hello();
    };
    socket.onmessage = (event) => receive(JSON.parse(event.data));
    socket.onclose = () => {
      tries++;
      if (tries > 1 || document.visibilityState === "visible") notice.textContent = "Reconnecting…";
      // Whose session has ended is sent to sign in; a gateway that is away says nothing.
      fetch(location.href, { method: "HEAD", redirect: "manual" }).then((answer) => answer.type === "opaqueredirect" && location.reload(), () => {});
      setTimeout(open, Math.min(10000, 250 * 2 ** tries) * (0.5 + Math.random() / 2));
    };
  };
  open();
  return (message) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  };
}
