// Faces and five landmarks by YuNet's proposals, which the last networks of MTCNN judge: agelens/faces/yunet_onet.py
// in the page.

import constants from "./constants.js";
import { confirm, inImage, refine, squared, suppress } from "./mtcnn_networks.js";
import { resize, roundHalfEven } from "./resample.js";
import { searched } from "./search_size.js";

const { strides: STRIDES, padding: PADDING, large: LARGE, overlap: OVERLAP } = constants.yunet;
const { proposed_face: PROPOSED_FACE, output_side: OUTPUT_SIDE, shift: SHIFT, side: SIDE } = constants.yunet_onet;
const { certain: CERTAIN, least_side: LEAST_SIDE, most_uncertain: MOST_UNCERTAIN } = constants.yunet_onet;

export class YuNetONet {
  /**
   * networks: {yunet, rnet, onet}, functions that take a Float32Array and its shape and give, in the order of the network's
   * outputs, {data, dims}. settings: in place of those of constants.js, for tests.
   */
  constructor(networks, settings = {}) {
    this.networks = networks;
    this.settings = { ...constants.yunet_onet, ...settings };
  }

  /** Faces {box, confidence, landmarks, upright} in pixels of the image, the largest first. */
  async detect(image) {
    const { picture, smallest } = searched(image, this.settings);
    const [proposal, refinement, output] = this.settings.thresholds;
    const small = divided(picture, Math.max(1, Math.floor(smallest / PROPOSED_FACE)));
    const across = picture.width / small.width;
    const down = picture.height / small.height;
    const proposals = await propose(small, this.networks.yunet, proposal);
    const number = proposals.filter(({ score }) => score >= CERTAIN).length;
    const squares = proposals
      .slice(0, number + MOST_UNCERTAIN)
      .map(({ box: [x1, y1, x2, y2] }) => outputSquare([x1 * across, y1 * down, x2 * across, y2 * down]));
    if (squares.length === 0) return [];
    const levels = levelsOf(picture, small, Math.max(...squares.map(([left, , right]) => right - left)));
    const refined = (await refine(levels, squares.slice(number), this.networks.rnet, Math.fround(refinement))).map(squared);
    const judged = [...squares.slice(0, number), ...refined];
    const faces = await confirm(levels, judged, this.networks.onet, Math.fround(output));
    for (const face of faces) {
      face.upright = face.confidence * (face.index < number ? proposals[face.index].score : CERTAIN);
    }
    const least = this.settings.min_face_size ?? 0;
    return inImage(faces, picture, image).filter(({ box: [x1, y1, x2, y2] }) => Math.max(x2 - x1, y2 - y1) >= least);
  }
}

/** Boxes {box, score} that YuNet sees, of faces of about 10 pixels and more, in pixels of the picture. */
async function propose(picture, network, threshold) {
  const found = await proposeOnce(picture, network, threshold);
  if (Math.max(picture.width, picture.height) > LARGE) {
    const smaller = divided(picture, 4);
    const across = picture.width / smaller.width;
    const down = picture.height / smaller.height;
    for (const { box: [x1, y1, x2, y2], score } of await proposeOnce(smaller, network, threshold)) {
      found.push({ box: [x1 * across, y1 * down, x2 * across, y2 * down], score });
    }
  }
  const judged = ({ box: [x1, y1, x2, y2], score }) => score >= CERTAIN || Math.max(x2 - x1, y2 - y1) >= LEAST_SIDE;
  return suppress(found.filter(judged), OVERLAP);
}

/** The boxes at one scale, not yet suppressed. */
async function proposeOnce({ width, height, pixels }, network, threshold) {
  const columns = Math.ceil(width / PADDING) * PADDING;
  const rows = Math.ceil(height / PADDING) * PADDING;
  const input = new Float32Array(3 * rows * columns); // black on the right and below
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * width + x) * 3;
      const to = y * columns + x;
      for (let channel = 0; channel < 3; channel++) input[(2 - channel) * rows * columns + to] = pixels[from + channel];
    }
  }
  const maps = await network(input, [1, 3, rows, columns]);
  const least = Math.fround(threshold ** 2);
  const found = [];
  STRIDES.forEach((stride, index) => {
    const [face, here, move] = [0, 1, 2].map((part) => maps[STRIDES.length * part + index].data);
    const across = columns / stride;
    for (let cell = 0; cell < face.length; cell++) {
      const score = Math.fround(face[cell] * here[cell]);
      if (!(score >= least)) continue;
      const [moveX, moveY, wide, high] = move.subarray(4 * cell, 4 * cell + 4);
      const x = ((cell % across) + moveX) * stride;
      const y = (Math.floor(cell / across) + moveY) * stride;
      const [halfWidth, halfHeight] = [(Math.exp(wide) * stride) / 2, (Math.exp(high) * stride) / 2];
      found.push({ box: [x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight], score: Math.sqrt(score) });
    }
  });
  return found;
}

/** The square, as the last networks expect it, of a box of YuNet. */
function outputSquare(box) {
  const [x1, y1, x2, y2] = squared(box);
  const side = x2 - x1;
  const x = (x1 + x2) / 2 + side * SHIFT[0];
  const y = (y1 + y2) / 2 + side * SHIFT[1];
  const half = (side * SIDE) / 2;
  return [x - half, y - half, x + half, y + half];
}

/** A picture at a whole part of its scale. */
function divided(picture, factor) {
  if (factor === 1) return picture;
  const [width, height] = [picture.width, picture.height].map((side) => Math.max(1, roundHalfEven(side / factor)));
  return resize(picture, width, height, "bilinear", 1);
}

/** The picture, the smaller one, and halves of it down to where the largest box fits the output network. */
function levelsOf(picture, small, largest) {
  const levels = [{ scale: 1, image: picture }];
  if (small !== picture) levels.push({ scale: small.width / picture.width, image: small });
  while (levels.at(-1).scale * largest >= 2 * OUTPUT_SIDE) {
    const { scale, image } = levels.at(-1);
    levels.push({ scale: scale / 2, image: divided(image, 2) });
  }
  return levels;
}
