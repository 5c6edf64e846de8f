// The log of one attempt: bytes come in order, are cut into lines, and lie under the step that printed them.
import { parse, plain } from "./ansi.js";
import { el } from "./shared.js";

const BLOCK = 200; // lines that are laid out together, or not at all while they are out of sight
const EAGER = 4000; // lines of a step that are elements from the start, so that the browser's search finds them
const ROW = 19.375; // height of a line in CSS pixels, as long as it does not wrap (style.css: 12.5px * 1.55)
const NEWLINE = 10;
const ESCAPE = 27;

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
    this.block = null; // the last one
    this.open = el("div", {}); // an unfinished line
    element.replaceChildren(this.open);
  }

  line(bytes) {
    if (!this.block || this.block.lines.length === BLOCK) {
      this.block = new Block(this.count + 1, this.style, this.count < EAGER);
      this.open.before(this.block.element);
    }
    this.count++;
    this.style = this.block.add(bytes, this.style);
  }

  // show shows an unfinished line, as a progress bar is until it ends.
  show(bytes) {
    this.open.replaceChildren(...(bytes.length === 0 ? [] : [render(this.count + 1, bytes, this.style)[0]]));
  }
}

// Block is some lines of a part. Beyond the first few thousand they are elements only while they are near the window.
class Block {
  constructor(first, style, eager) {
    this.first = first; // the number of its first line
    this.style = style; // in which that begins
    this.lines = [];
    this.shown = eager;
    this.element = el("div", { class: "block" });
    if (!eager) {
      blocks.set(this.element, this);
      nearby.observe(this.element);
    }
  }

  // add appends a line, and returns the style that goes on behind it.
  add(bytes, style) {
    this.lines.push(bytes);
    if (this.shown) {
      const [row, next] = render(this.first + this.lines.length - 1, bytes, style);
      this.element.append(row);
      return next;
    }
    this.element.style.height = this.lines.length * ROW + "px";
    return bytes.includes(ESCAPE) ? parse(decoder.decode(bytes), style)[1] : style;
  }

  show() {
    if (this.shown) return;
    this.shown = true;
    let { style } = this;
    this.element.append(...this.lines.map((bytes, i) => {
      let row;
      [row, style] = render(this.first + i, bytes, style);
      return row;
    }));
    this.element.style.height = "";
  }

  hide() {
    if (!this.shown) return;
    this.shown = false;
    this.element.style.height = this.element.offsetHeight + "px";
    this.element.replaceChildren();
  }
}

const blocks = new WeakMap(); // element -> Block
const nearby = new IntersectionObserver((changes) => {
  for (const change of changes) {
    const block = blocks.get(change.target);
    if (change.isIntersecting) block.show();
    else block.hide();
  }
}, { rootMargin: "1500px" });

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
