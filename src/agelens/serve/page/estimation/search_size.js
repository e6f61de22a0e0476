// How large an image is when a detector searches it: agelens/faces/search_size.py in the page.

import constants from "./constants.js";
import { resize, roundHalfEven } from "./resample.js";

const { least_face: LEAST, searched_face: SEARCHED, faces_across: ACROSS } = constants.search;

/** The image as it is searched, and the smallest face in its pixels. */
export function searched(image, { min_face_size: given, max_side: maxSide }) {
  const { width, height } = image;
  const smallest = given ?? Math.max(SEARCHED, Math.sqrt(width * height) / ACROSS);
  const shrink = Math.min(1, SEARCHED / smallest, (maxSide ?? Infinity) / Math.max(width, height));
  const side = (length) => Math.max(1, roundHalfEven(length * shrink));
  const picture = shrink < 1 ? resize(image, side(width), side(height), "box", 2) : image;
  return { picture, smallest: Math.max(LEAST, smallest * shrink) };
}
