// Photos that are too large for the server are made smaller here: faces need far fewer pixels.

import { Problem } from "./problem.js";

const PIXELS = 12_000_000; // of a reduced photo, at most
const QUALITY = 0.92;

const mebibytes = (bytes) => (bytes / 2 ** 20).toFixed(1);

/** A photo as a JPEG file within the limits {body_bytes, pixels}: {photo, note}. */
export async function reduce(photo, limits) {
  const bitmap = await createImageBitmap(photo, { imageOrientation: "from-image" }).catch(() => {
    const sizes = `It has ${mebibytes(photo.size)} MiB; the server takes ${mebibytes(limits.body_bytes)} MiB`;
    throw new Problem("This file is too large for the server", `${sizes}, and this browser cannot make it smaller.`);
  });
  try {
    const most = Math.min(PIXELS, limits.pixels);
    for (let scale = Math.min(1, Math.sqrt(most / (bitmap.width * bitmap.height))); ; scale /= 2) {
      const width = Math.max(1, Math.floor(bitmap.width * scale));
      const height = Math.max(1, Math.floor(bitmap.height * scale));
      const smaller = await encoded(bitmap, width, height);
      if (smaller.size <= limits.body_bytes || width * height < 10_000) {
        const note = `Made smaller in this page, to ${width} × ${height} pixels, before it was sent`;
        return { photo: smaller, note };
      }
    }
  } finally {
    bitmap.close();
  }
}

function encoded(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}
