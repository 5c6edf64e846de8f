// Terminal colours as classes. Every other escape sequence is dropped; text stays text.

export const plain = Object.freeze({ fg: null, bg: null, bold: false, dim: false, italic: false, underline: false, strike: false, inverse: false });

// An escape sequence: CSI with its final byte, OSC up to BEL or ST, or two characters. Then other control characters.
const ESCAPE = /\x1b\[([0-9;:?<=>]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]/g;

// parse returns the pieces [text, classes] of a line, and the style that goes on behind it.
export function parse(line, style) {
  const pieces = [];
  let last = 0;
  const add = (end) => {
    if (end > last) pieces.push([line.slice(last, end), classes(style)]);
  };
  for (const match of line.matchAll(ESCAPE)) {
    add(match.index);
    last = match.index + match[0].length;
    if (match[2] === "m") style = select(style, match[1]);
  }
  add(line.length);
  return [pieces, style];
}

function classes(style) {
  const names = [];
  const { fg, bg, inverse } = style;
  if (inverse && fg === null && bg === null) names.push("v");
  else if (inverse) names.push("f" + (bg ?? 0), "g" + (fg ?? 7));
  else {
    if (fg !== null) names.push("f" + fg);
    if (bg !== null) names.push("g" + bg);
  }
  if (style.bold) names.push("b");
  if (style.dim) names.push("d");
  if (style.italic) names.push("i");
  if (style.underline) names.push("u");
  if (style.strike) names.push("s");
  return names.join(" ");
}

// select applies "select graphic rendition" (ECMA-48, 8.3.117).
function select(style, parameters) {
  const next = { ...style };
  const codes = parameters.split(/[;:]/).map((code) => Number(code || 0));
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i];
    if (code === 0) Object.assign(next, plain);
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 9) next.strike = true;
    else if (code === 22) next.bold = next.dim = false;
    else if (code === 23) next.italic = false;
    else if (code === 24) next.underline = false;
    else if (code === 27) next.inverse = false;
    else if (code === 29) next.strike = false;
    else if (code >= 30 && code <= 37) next.fg = code - 30;
    else if (code === 39) next.fg = null;
    else if (code >= 40 && code <= 47) next.bg = code - 40;
    else if (code === 49) next.bg = null;
    else if (code >= 90 && code <= 97) next.fg = code - 82;
    else if (code >= 100 && code <= 107) next.bg = code - 92;
    else if (code === 38 || code === 48) {
      let colour = null;
      if (codes[i + 1] === 5) { colour = indexed(codes[i + 2]); i += 2; }
      else if (codes[i + 1] === 2) { colour = nearest(codes[i + 2], codes[i + 3], codes[i + 4]); i += 4; }
      if (code === 38) next.fg = colour; else next.bg = colour;
    }
  }
  return next;
}

// indexed is one of 256 colours as the nearest of the 16 that have a class.
function indexed(n) {
  if (!(n >= 0 && n <= 255)) return null;
  if (n < 16) return n;
  if (n >= 232) return nearest(...Array(3).fill(8 + (n - 232) * 10));
  const level = (v) => (v === 0 ? 0 : 55 + v * 40);
  n -= 16;
  return nearest(level(Math.floor(n / 36)), level(Math.floor(n / 6) % 6), level(n % 6));
}

const BASE = [[0, 0, 0], [205, 0, 0], [0, 205, 0], [205, 205, 0], [0, 0, 238], [205, 0, 205], [0, 205, 205], [229, 229, 229],
  [127, 127, 127], [255, 85, 85], [85, 255, 85], [255, 255, 85], [92, 92, 255], [255, 85, 255], [85, 255, 255], [255, 255, 255]];

function nearest(r, g, b) {
  if (![r, g, b].every((v) => v >= 0 && v <= 255)) return null;
  const distance = ([x, y, z]) => (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2;
  return BASE.reduce((best, colour, i) => (distance(colour) < distance(BASE[best]) ? i : best), 0);
}
