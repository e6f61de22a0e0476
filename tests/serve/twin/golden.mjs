// The golden results of Python, and the inputs they were computed from.

import { readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";

export const golden = JSON.parse(readFileSync(new URL("golden.json", import.meta.url), "utf-8"));

export const page = (path) => import(new URL(`../../../src/agelens/serve/page/${path}`, import.meta.url));

/** The noise of scripts/twin.py: an image {width, height, pixels}. */
export function noise([width, height, seed]) {
  const pixels = new Uint8Array(width * height * 3);
  let state = seed;
  for (let index = 0; index < pixels.length; index++) {
    state = (Math.imul(1103515245, state) + 12345) & 0x7fffffff;
    pixels[index] = (state >> 16) & 0xff;
  }
  return { width, height, pixels };
}

/** Bytes that scripts/twin.py packed. */
export const unpack = (text) => new Uint8Array(inflateSync(Buffer.from(text, "base64")));

export const floats = (text) => new Float32Array(unpack(text).buffer);

/** The largest difference of two arrays of numbers, at any depth; infinite where their forms differ. */
export function apart(one, other) {
  if (typeof one === "number" || typeof other === "number") {
    return typeof one === typeof other ? Math.abs(one - other) : Infinity;
  }
  if (one.length !== other.length) return Infinity;
  let most = 0;
  for (let index = 0; index < one.length; index++) most = Math.max(most, apart(one[index], other[index]));
  return most;
}
