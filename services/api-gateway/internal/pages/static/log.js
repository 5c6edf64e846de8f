// The log of one attempt: bytes come in order, are cut into lines, and lie under the step that printed them.
import { parse, plain } from "./ansi.js";
import { el } from "./shared.js";

const BLOCK = 200; // rows that the browser lays out together, or not at all while they are out of sight
const MOST = 20000; // rows kept of one step; the plain log has the rest
const NEWLINE = 10;

export class Log {
  // place(number) returns the element for the output of a step; 0 is what comes before the first step.
  constructor(attempt, place) {
    this.attempt = attempt;
    this.place = place;
    this.offset = 0; // the next byte
    this.ended = false;
    this.steps = []; // {number, start}, by start
    this.parts = new Map(); // step number -> Part
    this.rest = new Uint8Array(0); // of an unfinished line
  }

  // setSteps tells where in the log each step begins. It returns true when bytes that were shown already belong to
  // another step: then they were taken back, and are to be asked for again from this.offset on.
  setSteps(steps) {
    const begun = steps.filter((step) => step.log_offset !== null)
      .map((step) => ({ number: step.number, start: step.log_offset })).sort((a, b) => a.start - b.start || a.number - b.number);
    const before = this.steps;
    this.steps = begun;
    const moved = begun.find((step) => step.start < this.offset && !before.some((old) => old.number === step.number && old.start === step.start));
    if (!moved) return false;
    const back = Math.max(0, ...before.filter((step) => step.start <= moved.start).map((step) => step.start));
    for (const [number, part] of this.parts) {
      if (part.start >= back) {
        part.element.replaceChildren();
        this.parts.delete(number);
      }
    }
    this.offset = back;
    this.rest = new Uint8Array(0);
    this.ended = false;
    return true;
  }

  // write takes bytes that begin at offset. What is known already is skipped; a gap cannot be, because the server goes on
  // where it was asked to.
  write(offset, bytes) {
    bytes = bytes.subarray(Math.max(0, this.offset - offset));
    while (bytes.length > 0) {
      const border = this.steps.find((step) => step.start > this.offset);
      const size = border ? Math.min(bytes.length, border.start - this.offset) : bytes.length;
      this.#lines(bytes.subarray(0, size));
      this.offset += size;
      bytes = bytes.subarray(size);
      if (border && this.offset === border.start) this.#finish(); // the step before did not end its last line
    }
  }

  // end says that the attempt prints nothing more.
  end() {
    this.ended = true;
    this.#finish();
  }

  #lines(bytes) {
    const part = this.#part();
    let from = 0;
    for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, from)) {
      part.line(join(this.rest, bytes.subarray(from, at)));
      this.rest = new Uint8Array(0);
      from = at + 1;
    }
    this.rest = join(this.rest, bytes.subarray(from));
    part.show(this.rest);
  }

  #finish() {
    if (this.rest.length > 0) this.last.line(this.rest);
    this.rest = new Uint8Array(0);
    if (this.last) this.last.show(this.rest);
  }

  #part() {
    const step = this.steps.findLast((step) => step.start <= this.offset) || { number: 0, start: 0 };
    let part = this.parts.get(step.number);
    if (!part) {
      part = new Part(this.place(step.number), step.start);
      this.parts.set(step.number, part);
    }
    this.last = part;
    return part;
  }
}

// Part is the output of one step.
class Part {
  constructor(element, start) {
    this.element = element;
    this.start = start;
    this.style = plain;
    this.count = 0;
    this.blocks = [];
    this.open = null; // the row of an unfinished line
    element.replaceChildren();
  }

  line(bytes) {
    this.show(new Uint8Array(0));
    let row;
    [row, this.style] = render(++this.count, bytes, this.style);
    this.#append(row);
  }

  // show shows an unfinished line, as a progress bar is until it ends.
  show(bytes) {
    if (this.open) this.open.remove();
    this.open = null;
    if (bytes.length === 0) return;
    this.open = render(this.count + 1, bytes, this.style)[0];
    this.#block().append(this.open);
  }

  #append(row) {
    this.#block().append(row);
    if (this.count > MOST && this.count % BLOCK === 0) {
      this.blocks.shift().remove();
      if (!this.cut) this.element.prepend(this.cut = el("p", { class: "cut" }));
      this.cut.textContent = "The first " + (this.count - this.blocks.length * BLOCK) + " lines are not shown here; the plain log has them.";
    }
  }

  #block() {
    let block = this.blocks.at(-1);
    if (!block || block.childElementCount >= BLOCK) {
      block = el("div", { class: "block" });
      this.blocks.push(block);
      this.element.append(block);
    }
    return block;
  }
}

const decoder = new TextDecoder();

// render makes the row of a line. A carriage return goes back to its beginning: the last state of a progress bar stays.
function render(number, bytes, style) {
  const text = decoder.decode(bytes).replace(/\r+$/, "");
  const [pieces, next] = parse(text.slice(text.lastIndexOf("\r") + 1), style);
  const content = el("span", { class: "text" });
  for (const [piece, names] of pieces) content.append(names ? el("span", { class: names }, piece) : piece);
  return [el("div", { class: "row", "data-n": number }, content), next];
}

function join(a, b) {
  if (a.length === 0) return b;
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
