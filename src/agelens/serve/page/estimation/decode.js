// From an encoded photo to RGB pixels, upright: agelens/faces/image.py as far as a browser goes.

import { makeImage } from "./resample.js";

const STRIP = 512; // rows; some browsers limit a canvas to fewer pixels than a photo has

const OPTIONS = { imageOrientation: "from-image", colorSpaceConversion: "default", premultiplyAlpha: "none" };

/**
 * Decode a photo to sRGB; transparency is laid on white. One of more pixels than `most` is made smaller, and says so
 * (`reduced`). Throws if the browser cannot read it.
 */
export async function decode(blob, most) {
  const whole = await createImageBitmap(blob, OPTIONS);
  const reduced = whole.width * whole.height > most;
  const bitmap = reduced ? await within(whole, most) : whole;
  try {
    const image = makeImage(bitmap.width, bitmap.height);
    const strip = new OffscreenCanvas(bitmap.width, Math.min(STRIP, bitmap.height));
    const context = strip.getContext("2d", { willReadFrequently: true });
    let out = 0;
    for (let top = 0; top < bitmap.height; top += STRIP) {
      const rows = Math.min(STRIP, bitmap.height - top);
      context.fillStyle = "white";
      context.fillRect(0, 0, strip.width, strip.height);
      context.drawImage(bitmap, 0, -top);
      const { data } = context.getImageData(0, 0, bitmap.width, rows);
      for (let from = 0; from < data.length; from += 4) {
        image.pixels[out++] = data[from];
        image.pixels[out++] = data[from + 1];
        image.pixels[out++] = data[from + 2];
      }
    }
    return { ...image, reduced };
  } finally {
    bitmap.close();
  }
}

async function within(bitmap, most) {
  const scale = Math.sqrt(most / (bitmap.width * bitmap.height));
  const size = (length) => Math.max(1, Math.floor(length * scale));
  const resized = { resizeWidth: size(bitmap.width), resizeHeight: size(bitmap.height), resizeQuality: "high" };
  try {
    return await createImageBitmap(bitmap, resized);
  } finally {
    bitmap.close();
  }
}
