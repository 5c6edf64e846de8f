// One run, as it changes: its jobs on the left; of the chosen one, the steps and what they print.
import { Log } from "./log.js";
import { connect, el, heading, isFinal, source, status, tick, took, when } from "./shared.js";

const main = document.getElementById("main");
const nav = el("ul", {});
const details = el("div", { class: "details" });
const toEnd = el("button", { class: "follow", type: "button", hidden: "" });
const views = new Map(); // job id -> View
let summary = null;
let run = null;
let chosen = null; // the job that is shown
let byHand = location.hash.startsWith("#job-"); // the reader has chosen it
let following = true; // the page scrolls with the log

// View is one job on the page.
class View {
  constructor(id) {
    this.link = el("a", { href: "#job-" + id });
    this.title = el("h2", { id: "name-" + id });
    this.facts = el("p", { class: "facts" });
    this.reason = el("pre", { class: "reason", hidden: "" });
    this.list = el("ol", { class: "steps" });
    this.section = el("section", { class: "job", id: "job-" + id, "aria-labelledby": "name-" + id, hidden: "" },
      el("header", {}, this.title, this.facts, this.reason), this.list);
    this.steps = new Map(); // number -> {item, fold, head, output}
    this.log = null;
    nav.append(el("li", {}, this.link));
    details.append(this.section);
  }

  update(job) {
    this.job = job;
    if (!isFinal(job.status)) this.live = true; // we have seen it run: the page goes to the end with it
    this.link.replaceChildren(status(job.status), " ", el("bdi", { class: "name" }, job.name), " ", took(job.started_at, job.finished_at));
    this.title.replaceChildren(el("bdi", {}, job.name));
    this.facts.replaceChildren(status(job.status),
      took(job.started_at, job.finished_at),
      el("a", { href: "/api/v1/jobs/" + job.id + "/log" }, "plain log"));
    this.section.dataset.status = job.status;
    this.reason.hidden = job.reason === "";
    this.reason.textContent = job.reason;
    if (job.attempt > 0 && (!this.log || this.log.attempt !== job.attempt)) {
      this.log = new Log(job.attempt, (number) => this.step(number).output);
      this.steps.clear();
      this.list.replaceChildren();
      if (job.id === chosen) ask(this);
    }
    for (const step of job.steps) this.updateStep(step);
    if (this.log && this.log.setSteps(job.steps) && job.id === chosen) ask(this);
  }

  updateStep(step) {
    const shown = this.step(step.number);
    shown.item.dataset.status = step.status;
    shown.head.replaceChildren(status(step.status), el("bdi", { class: "name" }, step.name),
      el("span", { class: "exit" }, step.exit_code ? "exit code " + step.exit_code : ""), took(step.started_at, step.finished_at));
    if (!shown.touched) shown.fold.open = ["running", "failure", "error"].includes(step.status);
    if (isFinal(step.status) && shown.output.childElementCount === 0) shown.output.replaceChildren(el("p", { class: "none" }, "no output"));
  }

  // step returns the elements of a step. Number 0 is what the runner says before the first one.
  step(number) {
    let shown = this.steps.get(number);
    if (shown) return shown;
    const head = el("summary", {}, el("bdi", { class: "name" }, "Set up the job"));
    const output = el("div", { class: "log" });
    const fold = el("details", {}, head, output);
    const item = el("li", { class: "step", "data-number": number }, fold);
    shown = { item, fold, head, output, touched: false };
    head.addEventListener("click", () => { shown.touched = true; });
    this.steps.set(number, shown);
    const behind = [...this.list.children].find((other) => Number(other.dataset.number) > number);
    this.list.insertBefore(item, behind || null);
    return shown;
  }
}

const send = connect("/api/v1/watch?run=" + main.dataset.run, () => {
  const view = views.get(chosen);
  if (view) ask(view); // from where we are: a gap cannot be
}, receive);

// ask follows a job's log from the first byte that is missing.
function ask(view) {
  if (view.log && !view.log.ended) send({ type: "follow", job_id: view.job.id, attempt: view.log.attempt, offset: view.log.offset });
}

function receive(message) {
  if (message.type === "run") showRun(message.run);
  if (message.type === "log") showLog(message);
}

function showRun(next) {
  if (!run) begin();
  run = next;
  document.title = run.status + " · " + heading(run) + " · Lockstep";
  summary.replaceChildren(
    el("h1", {}, status(run.status), el("bdi", {}, heading(run))),
    el("p", { class: "facts" }, ...source(run),
      el("span", {}, run.event, run.pull_request ? " #" + run.pull_request : "", ...(run.author ? [" by ", el("bdi", {}, run.author)] : [])),
      when(run.created_at), took(run.created_at, run.finished_at), el("span", {}, "run " + run.id)));
  for (const job of run.jobs) {
    if (!views.has(job.id)) views.set(job.id, new View(job.id));
    views.get(job.id).update(job);
  }
  choose(best());
}

// begin replaces what the server has written by what is kept up to date.
function begin() {
  summary = el("header", { class: "summary" });
  main.replaceChildren(summary, el("div", { class: "columns" }, el("nav", { class: "jobs", "aria-label": "Jobs" }, nav), details));
  document.body.append(toEnd);
  if (byHand) chosen = location.hash.slice("#job-".length);
}

// best is the job that a reader most likely wants: one that failed, else one that runs, else what was shown, else the first.
function best() {
  const find = (...words) => run.jobs.find((job) => words.includes(job.status));
  if (byHand && views.has(chosen)) return chosen;
  const job = find("failure", "error") || run.jobs.find((job) => job.id === chosen && !isFinal(job.status)) ||
    find("running") || run.jobs.find((job) => job.id === chosen) || run.jobs[0];
  return job ? job.id : null;
}

function choose(id) {
  if (id === null || !views.has(id)) return;
  if (id !== chosen && views.has(chosen)) send({ type: "unfollow", job_id: chosen });
  const changed = id !== chosen || views.get(id).section.hidden;
  chosen = id;
  for (const [job, view] of views) {
    view.section.hidden = job !== id;
    if (job === id) view.link.setAttribute("aria-current", "true");
    else view.link.removeAttribute("aria-current");
  }
  if (changed) ask(views.get(id));
}

function showLog(message) {
  const view = views.get(message.job_id);
  if (!view || !view.log || view.log.attempt !== message.attempt) return;
  view.log.write(message.offset, unpack(message.data || ""));
  if (message.ended) view.log.end();
}

// unpack reads base64. (Uint8Array.from with a function takes ten times as long, and a log may have megabytes.)
function unpack(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// The page follows the log until the reader scrolls up, and again from its end.
let lastY = scrollY;
function look() {
  const end = document.documentElement.scrollHeight - innerHeight - scrollY < 40;
  if (scrollY < lastY && !end) following = false;
  if (end) following = true;
  lastY = scrollY;
  toEnd.textContent = run && isFinal(run.status) ? "To the end" : "Follow the log";
  toEnd.hidden = end;
}
addEventListener("scroll", look, { passive: true });
addEventListener("resize", look, { passive: true });
new ResizeObserver(() => {
  if (following && views.get(chosen)?.live) scrollTo(0, document.documentElement.scrollHeight);
  look();
}).observe(main);
toEnd.addEventListener("click", () => {
  following = true;
  scrollTo(0, document.documentElement.scrollHeight);
});

addEventListener("hashchange", () => {
  byHand = true;
  if (location.hash.startsWith("#job-")) choose(location.hash.slice("#job-".length));
});
tick();
