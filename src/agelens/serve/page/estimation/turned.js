// Faces in pictures that lie on a side or stand on their head: agelens/faces/turned.py in the page.

import constants from "./constants.js";

const { by_confidence: BY_CONFIDENCE, by_upright: BY_UPRIGHT, several: SEVERAL } = constants.turned;

/** Faces of an image; without a certain one, also of the image turned by quarters. */
export async function detectTurned(image, detector) {
  let faces = await detector.detect(image);
  let best = bestOf(faces);
  const certain = faces.filter(({ confidence }) => confidence >= BY_CONFIDENCE.upright);
  if (best.score >= best.limits.upright || certain.length >= SEVERAL) return faces;
  for (const quarters of [1, 2, 3]) {
    const turned = turn(image, quarters);
    const found = await detector.detect(turned);
    const { score, limits } = bestOf(found);
    if (score <= Math.max(best.score, limits.turned)) continue;
    if (bestOf(await detector.detect(mirror(turned))).score <= limits.turned) continue;
    best = { score, limits };
    faces = found.map((face) => turnBack(face, quarters, image)); // areas, and so their order, stay
  }
  return faces;
}

/** The highest score of a face, and the limits of its kind. */
function bestOf(faces) {
  const limits = faces.some(({ upright }) => upright !== undefined) ? BY_UPRIGHT : BY_CONFIDENCE;
  return { score: Math.max(0, ...faces.map(({ confidence, upright }) => upright ?? confidence)), limits };
}

/** The image turned by quarters, against the clock. */
export function turn(image, quarters) {
  const across = quarters % 2 ? image.height : image.width;
  const down = quarters % 2 ? image.width : image.height;
  const { width, height } = image;
  const source = {
    1: (x, y) => x * width + (width - 1 - y),
    2: (x, y) => (height - 1 - y) * width + (width - 1 - x),
    3: (x, y) => (height - 1 - x) * width + y,
  }[quarters];
  return rearranged(image, across, down, source);
}

function mirror(image) {
  return rearranged(image, image.width, image.height, (x, y) => y * image.width + (image.width - 1 - x));
}

function rearranged(image, width, height, source) {
  const pixels = new image.pixels.constructor(width * height * 3);
  let out = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = source(x, y) * 3;
      for (let channel = 0; channel < 3; channel++) pixels[out++] = image.pixels[from + channel];
    }
  }
  return { width, height, pixels };
}

/** The face of an image that was turned by quarters, in pixels of the original. */
export function turnBack({ box, confidence, landmarks, upright }, quarters, { width, height }) {
  const original = {
    1: ([x, y]) => [width - y, x],
    2: ([x, y]) => [width - x, height - y],
    3: ([x, y]) => [y, height - x],
  }[quarters];
  const corners = [original([box[0], box[1]]), original([box[2], box[3]])];
  const side = (choose, axis) => choose(corners[0][axis], corners[1][axis]);
  return {
    box: [side(Math.min, 0), side(Math.min, 1), side(Math.max, 0), side(Math.max, 1)],
    confidence,
    landmarks: landmarks.map(original),
    upright,
  };
}
