// Faces and five landmarks by a cascade of three small networks: agelens/faces/mtcnn.py in the page, with the
// same pyramid, thresholds and suppression.

import constants from "./constants.js";
import { confirm, inImage, networkInput, refine, regressed, squared, suppress } from "./mtcnn_networks.js";
import { resize, roundHalfEven } from "./resample.js";
import { searched } from "./search_size.js";

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
    const { picture, smallest } = searched(image, this.settings);
    const levels = pyramid(picture, smallest, this.settings);
    const { rnet, onet } = this.networks;
    const proposals = (await this.#propose(levels)).map(squared);
    const squares = (await refine(levels, proposals, rnet, this.thresholds[1])).map(squared);
    return inImage(await confirm(levels, squares, onet, this.thresholds[2]), picture, image);
  }

  /** Boxes that PNet proposes over all levels. */
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
