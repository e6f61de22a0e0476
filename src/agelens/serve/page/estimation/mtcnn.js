// Faces and five landmarks by a cascade of three small networks: agelens/faces/mtcnn.py in the page, with the
// same pyramid, thresholds and suppression.
//
// The networks were trained on images whose axes are swapped, while their outputs speak of ordinary x and y: their
// inputs are transposed, and their maps are read [x, y].

import constants from "./constants.js";
import { resize, roundHalfEven, warp } from "./resample.js";

const { cell: CELL, stride: STRIDE } = constants.mtcnn; // pixels of PNet's receptive field, and between its cells

export class MTCNN {
  /**
   * networks: {pnet, rnet, onet}, functions that take a Float32Array and its shape [N, W, H, 3] and give, in the
   * order of the network's outputs, {data, dims}. settings: in place of those of constants.js, for tests.
   */
  constructor(networks, settings = {}) {
    this.networks = networks;
    this.settings = { ...constants.mtcnn, ...settings };
    // The networks' scores are single precision, so their thresholds are, too.
    this.thresholds = this.settings.thresholds.map(Math.fround);
  }

  /** Faces {box, confidence, landmarks} in pixels of the image, the largest first. */
  async detect(image) {
    const { smallest, shrink } = search(image, this.settings);
    const side = (length) => Math.max(1, roundHalfEven(length * shrink));
    const picture = shrink < 1 ? resize(image, side(image.width), side(image.height), "box", 2) : image;
    const levels = pyramid(picture, smallest, this.settings);
    const faces = await this.#output(levels, await this.#refine(levels, await this.#propose(levels)));
    const across = image.width / picture.width;
    const down = image.height / picture.height;
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    return faces
      .map(({ box: [x1, y1, x2, y2], confidence, landmarks }) => ({
        box: [x1 * across, y1 * down, x2 * across, y2 * down],
        confidence,
        landmarks: landmarks.map(([x, y]) => [x * across, y * down]),
      }))
      .sort((one, other) => area(other) - area(one));
  }

  /** Square boxes that PNet proposes over all levels. */
  async #propose(levels) {
    const found = [];
    for (const { scale, image } of levels.slice(1)) {
      const input = networkInput([image]);
      const [regression, probability] = await this.networks.pnet(input, [1, image.width, image.height, 3]);
      const [, columns, rows] = probability.dims;
      const cells = [];
      for (let x = 0; x < columns; x++) {
        for (let y = 0; y < rows; y++) {
          const cell = x * rows + y;
          const score = probability.data[2 * cell + 1];
          if (!(score >= this.thresholds[0])) continue;
          const box = [STRIDE * x, STRIDE * y, STRIDE * x + CELL, STRIDE * y + CELL].map((side) => side / scale);
          cells.push({ box, score, moves: regression.data.subarray(4 * cell, 4 * cell + 4) });
        }
      }
      for (const { box, score, moves } of suppress(cells, 0.5)) found.push({ box: regressed(box, moves), score });
    }
    return suppress(found, 0.5).map(({ box }) => box);
  }

  /** RNet: boxes of the proposals that look like faces. */
  async #refine(levels, boxes) {
    if (boxes.length === 0) return [];
    const squares = boxes.map(squared);
    const input = networkInput(squares.map((box) => cropBox(levels, box, 24)));
    const [regression, probability] = await this.networks.rnet(input, [squares.length, 24, 24, 3]);
    const passed = squares
      .map((box, index) => ({
        box,
        score: probability.data[2 * index + 1],
        moves: regression.data.subarray(4 * index, 4 * index + 4),
      }))
      .filter(({ score }) => score >= this.thresholds[1]);
    return suppress(passed, 0.6).map(({ box, moves }) => regressed(box, moves));
  }

  /** ONet: boxes, scores and landmarks of the faces. */
  async #output(levels, boxes) {
    if (boxes.length === 0) return [];
    const squares = boxes.map(squared);
    const input = networkInput(squares.map((box) => cropBox(levels, box, 48)));
    const [regression, points, probability] = await this.networks.onet(input, [squares.length, 48, 48, 3]);
    const passed = squares
      .map((box, index) => ({
        box: regressed(box, regression.data.subarray(4 * index, 4 * index + 4)),
        score: probability.data[2 * index + 1],
        landmarks: [0, 1, 2, 3, 4].map((point) => [
          box[0] + points.data[10 * index + point] * (box[2] - box[0]),
          box[1] + points.data[10 * index + 5 + point] * (box[3] - box[1]),
        ]),
      }))
      .filter(({ score }) => score >= this.thresholds[2]);
    return suppress(passed, 0.7, true).map(({ box, score, landmarks }) => ({ box, confidence: score, landmarks }));
  }
}

/** The smallest face in pixels of the image as it is searched, and the scale at which it is. */
function search({ width, height }, settings) {
  const { min_face_size: given, max_side: maxSide, searched_face: searched, faces_across: across } = settings;
  const smallest = given ?? Math.max(searched, Math.sqrt(width * height) / across);
  const shrink = Math.min(1, searched / smallest, (maxSide ?? Infinity) / Math.max(width, height));
  return { smallest: Math.max(CELL, smallest * shrink), shrink };
}

/** The image at the scales where PNet's cell spans ever larger faces; level 0 is the image. */
function pyramid(picture, smallest, { scale_factor: scaleFactor }) {
  const levels = [{ scale: 1, image: picture }];
  let scale = CELL / smallest;
  while (Math.min(picture.width, picture.height) * scale >= CELL) {
    const width = roundHalfEven(picture.width * scale);
    const height = roundHalfEven(picture.height * scale);
    levels.push({ scale, image: resize(levels.at(-1).image, width, height, "bilinear", 1.5) });
    scale *= scaleFactor;
  }
  return levels;
}

/** Images of one size as the networks want them: [N, W, H, 3], -1 … 1. */
function networkInput(images) {
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
function regressed([x1, y1, x2, y2], [left, top, right, bottom]) {
  const width = x2 - x1;
  const height = y2 - y1;
  return [x1 + left * width, y1 + top * height, x2 + right * width, y2 + bottom * height];
}

/** The square about a box's centre with its longer side. */
function squared([x1, y1, x2, y2]) {
  const half = Math.max(x2 - x1, y2 - y1) / 2;
  const x = (x1 + x2) / 2;
  const y = (y1 + y2) / 2;
  return [x - half, y - half, x + half, y + half];
}

/** A box as a square image, cut from the smallest level that is fine enough; black beyond the border. */
function cropBox(levels, [x1, y1, x2, y2], size) {
  const { image } = levels.findLast(({ scale }) => scale * (x2 - x1) >= size) ?? levels[0];
  const across = image.width / levels[0].image.width;
  const down = image.height / levels[0].image.height;
  const [left, top] = [x1 * across, y1 * down];
  return warp(image, size, size, [(x2 * across - left) / size, 0, left, 0, (y2 * down - top) / size, top]);
}

/** Greedy non-maximum suppression: the boxes kept, best score first. Overlap is over the union, or the smaller box. */
function suppress(found, threshold, ofSmaller = false) {
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
