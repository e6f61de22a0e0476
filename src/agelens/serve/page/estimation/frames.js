// From a frame of a clip or camera to RGB pixels.

import { makeImage } from "./resample.js";

let canvas = null; // kept from frame to frame

/** The pixels of an ImageBitmap, which is closed. */
export function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  if (canvas?.width !== width || canvas.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const image = makeImage(width, height);
  const { pixels } = image;
  for (let from = 0, out = 0; from < data.length; from += 4, out += 3) {
    pixels[out] = data[from];
    pixels[out + 1] = data[from + 1];
    pixels[out + 2] = data[from + 2];
  }
  return image;
}
