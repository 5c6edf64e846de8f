// The list of runs, as it changes.
import { connect, el, heading, source, status, tick, took, when } from "./shared.js";

const list = document.getElementById("runs");
const shown = new Map(); // run id -> {text, row}

function row(run) {
  const by = run.author ? [" by ", el("bdi", {}, run.author)] : [];
  const begun = ["new", "running"].includes(run.status) || run.finished_at;
  return el("li", { class: "run", "data-run": run.id },
    el("a", { href: "/run/" + run.id },
      status(run.status),
      el("span", { class: "title" }, el("bdi", {}, heading(run))),
      el("span", { class: "source" }, ...source(run)),
      el("span", { class: "when" }, el("span", {}, run.event, ...by), when(run.created_at)),
      begun ? took(run.created_at, run.finished_at) : el("span", { class: "took" })));
}

function show(runs) {
  if (runs.length === 0) return; // what the server has written says so
  const rows = runs.map((run) => {
    const text = JSON.stringify(run);
    const old = shown.get(run.id);
    return old && old.text === text ? old : { id: run.id, text, row: row(run) };
  });
  // Only what has changed is replaced, so that focus and selection stay elsewhere.
  rows.forEach((entry, place) => {
    const there = list.children[place];
    if (there !== entry.row) list.insertBefore(entry.row, there || null);
  });
  while (list.children.length > rows.length) list.lastElementChild.remove();
  shown.clear();
  for (const entry of rows) shown.set(entry.id, entry);
}

connect("/api/v1/watch", () => {}, (message) => {
  if (message.type === "runs") show(message.runs);
});
tick();
