// The last two networks of MTCNN, which refine a face and place its landmarks, and what their users share:
// agelens/faces/mtcnn_networks.py in the page.
//
// The networks were trained on images whose axes are swapped, while their outputs speak of ordinary x and y: their
// inputs are transposed, and their maps are read [x, y].

import { warp } from "./resample.js";

/** R-Net: the square boxes that look like faces, of overlapping ones the best, moved, and no longer square. */
export async function refine(levels, squares, network, threshold) {
  if (squares.length === 0) return [];
  const input = networkInput(squares.map((box) => cropBox(levels, box, 24)));
  const [regression, probability] = await network(input, [squares.length, 24, 24, 3]);
  const passed = squares
    .map((box, index) => ({
      box,
      score: probability.data[2 * index + 1],
      moves: regression.data.subarray(4 * index, 4 * index + 4),
    }))
    .filter(({ score }) => score >= threshold);
  return suppress(passed, 0.6).map(({ box, moves }) => regressed(box, moves));
}

/** O-Net: the faces in square boxes, in pixels of the first level: {box, confidence, landmarks, index of the box}. */
export async function confirm(levels, squares, network, threshold) {
  if (squares.length === 0) return [];
  const input = networkInput(squares.map((box) => cropBox(levels, box, 48)));
  const [regression, points, probability] = await network(input, [squares.length, 48, 48, 3]);
  const passed = squares
    .map((box, index) => ({
      box: regressed(box, regression.data.subarray(4 * index, 4 * index + 4)),
      index,
      score: probability.data[2 * index + 1],
      landmarks: [0, 1, 2, 3, 4].map((point) => [
        box[0] + points.data[10 * index + point] * (box[2] - box[0]),
        box[1] + points.data[10 * index + 5 + point] * (box[3] - box[1]),
      ]),
    }))
    .filter(({ score }) => score >= threshold);
  const kept = suppress(passed, 0.7, true);
  return kept.map(({ box, score, landmarks, index }) => ({ box, confidence: score, landmarks, index }));
}

/** Faces of the picture that was searched, in pixels of the image, the largest first. */
export function inImage(faces, picture, image) {
  const across = image.width / picture.width;
  const down = image.height / picture.height;
  const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  return faces
    .map(({ box: [x1, y1, x2, y2], confidence, landmarks, upright }) => ({
      box: [x1 * across, y1 * down, x2 * across, y2 * down],
      confidence,
      landmarks: landmarks.map(([x, y]) => [x * across, y * down]),
      upright,
    }))
    .sort((one, other) => area(other) - area(one));
}

/** Images of one size as the networks want them: [N, W, H, 3], -1 … 1. */
export function networkInput(images) {
  const [{ width, height }] = images;
  const input = new Float32Array(images.length * width * height * 3);
  let out = 0;
  for (const { pixels } of images) {
    for (let x = 0; x < width; x++) {
      for (let y = 0; y < height; y++) {
        const from = (y * width + x) * 3;
        for (let channel = 0; channel < 3; channel++) input[out++] = (pixels[from + channel] - 127.5) / 128;
      }
    }
  }
  return input;
}

/** Move each side of a box by the network's fractions of width and height. */
export function regressed([x1, y1, x2, y2], [left, top, right, bottom]) {
  const width = x2 - x1;
  const height = y2 - y1;
  return [x1 + left * width, y1 + top * height, x2 + right * width, y2 + bottom * height];
}

/** The square about a box's centre with its longer side. */
export function squared([x1, y1, x2, y2]) {
  const half = Math.max(x2 - x1, y2 - y1) / 2;
  const x = (x1 + x2) / 2;
  const y = (y1 + y2) / 2;
  return [x - half, y - half, x + half, y + half];
}

/** A box as a square image, cut from the smallest level that is fine enough; black beyond the border. */
export function cropBox(levels, [x1, y1, x2, y2], size) {
  const { image } = levels.findLast(({ scale }) => scale * (x2 - x1) >= size) ?? levels[0];
  const across = image.width / levels[0].image.width;
  const down = image.height / levels[0].image.height;
  const [left, top] = [x1 * across, y1 * down];
  return warp(image, size, size, [(x2 * across - left) / size, 0, left, 0, (y2 * down - top) / size, top]);
}

/** Greedy non-maximum suppression: the boxes kept, best score first. Overlap is over the union, or the smaller box. */
export function suppress(found, threshold, ofSmaller = false) {
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  let rest = found.toSorted((one, other) => other.score - one.score);
  const kept = [];
  while (rest.length > 0) {
    const best = rest[0];
    kept.push(best);
    rest = rest.slice(1).filter(({ box }) => {
      const width = Math.min(best.box[2], box[2]) - Math.max(best.box[0], box[0]);
      const height = Math.min(best.box[3], box[3]) - Math.max(best.box[1], box[1]);
      const shared = Math.max(width, 0) * Math.max(height, 0);
      const whole = ofSmaller ? Math.min(area(best.box), area(box)) : area(best.box) + area(box) - shared;
      return shared <= threshold * whole;
    });
  }
  return kept;
}
