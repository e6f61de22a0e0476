// Results as files: tables of CSV for spreadsheets, JSON, and pictures with the faces marked.

const PIXELS = 16_000_000; // of a picture, at most: some browsers' canvas has no more

/** Give a file to the browser to be saved. */
export function save(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may still be reading it
}

/** The name of a file without its folder and its ending. */
export const stem = (name) => name.replace(/^.*[/\\]/, "").replace(/\.[^.]*$/, "") || "result";

/** Rows as CSV for spreadsheets: marked as UTF-8, and no cell is read as a formula. A missing value is empty. */
export function csv(columns, rows) {
  const lines = [columns, ...rows.map((row) => columns.map((name) => row[name] ?? ""))];
  return `\ufeff${lines.map((cells) => cells.map(cell).join(",")).join("\n")}\n`;
}

function cell(value) {
  let text = String(value);
  if (/^[=+@]/.test(text) || (/^-./.test(text) && !Number.isFinite(Number(text)))) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const DIGITS = { p_at_least: 4, confidence: 4, time: 3, first: 3, last: 3 }; // after the point; else two

/** A row with its numbers as tables have them. */
export function rounded(row) {
  const text = (name, value) => {
    return typeof value !== "number" || Number.isInteger(value) ? value : value.toFixed(DIGITS[name] ?? 2);
  };
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, text(name, value)]));
}

export const json = (value) => `${JSON.stringify(value, null, 1)}\n`;

/** Draw an image or the frame of a video with faces [{box, label}], boxes in pixels of its `width` × `height`: a PNG. */
export async function annotated(source, { width, height }, faces) {
  const scale = Math.min(1, Math.sqrt(PIXELS / (width * height)));
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(1, Math.hypot(canvas.width, canvas.height) / 700);
  context.font = `${Math.round(14 * unit)}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const { box, label } of faces) {
    const [x1, y1, x2, y2] = box.map((side) => side * scale);
    for (const [colour, thickness] of [["rgb(0 0 0 / 60%)", 4], ["#fff", 2]]) {
      context.lineWidth = thickness * unit;
      context.strokeStyle = colour;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    const high = 20 * unit;
    const wide = context.measureText(label).width + 10 * unit;
    const left = Math.min(Math.max((x1 + x2 - wide) / 2, 0), Math.max(canvas.width - wide, 0));
    const top = Math.min(y2 + 3 * unit, canvas.height - high);
    context.fillStyle = "rgb(15 20 19 / 86%)";
    context.fillRect(left, top, wide, high);
    context.fillStyle = "#fff";
    context.fillText(label, left + 5 * unit, top + high / 2);
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (blob === null) throw new Error("the browser cannot make a picture of this size");
  return blob;
}
