// From an encoded photo to RGB pixels, upright: agelens/faces/image.py as far as a browser goes.

import { makeImage } from "./resample.js";

const STRIP = 512; // rows; some browsers limit a canvas to fewer pixels than a photo has

/** Decode a photo; transparency is laid on white, colour profiles are not applied. Throws if the browser cannot. */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
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
    return image;
  } finally {
    bitmap.close();
  }
}
