// Resampling of images, bit for bit as Pillow does it: a browser's canvas interpolates in its own way, and the
// detector and the age network were measured on Pillow's pixels.
//
// An image is {width, height, pixels}: pixels is a Uint8Array, RGB, row by row.

const CHANNELS = 3;
const PRECISION = 22; // bits after the point of a weight

/** Round as Python does: halves go to the even neighbour. */
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

export function makeImage(width, height) {
  return { width, height, pixels: new Uint8Array(width * height * CHANNELS) };
}

/** The part of an image between whole pixels. */
export function cut(image, left, top, right, bottom) {
  const part = makeImage(right - left, bottom - top);
  const row = part.width * CHANNELS;
  for (let y = 0; y < part.height; y++) {
    const start = ((top + y) * image.width + left) * CHANNELS;
    part.pixels.set(image.pixels.subarray(start, start + row), y * row);
  }
  return part;
}

/** Repeat the border pixels outwards. */
export function padEdge(image, left, top, right, bottom) {
  const padded = makeImage(image.width + left + right, image.height + top + bottom);
  let out = 0;
  for (let y = 0; y < padded.height; y++) {
    const row = Math.min(Math.max(y - top, 0), image.height - 1) * image.width;
    for (let x = 0; x < padded.width; x++) {
      const from = (row + Math.min(Math.max(x - left, 0), image.width - 1)) * CHANNELS;
      for (let channel = 0; channel < CHANNELS; channel++) padded.pixels[out++] = image.pixels[from + channel];
    }
  }
  return padded;
}

const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
};

/** Resize with a filter that grows with the reduction; first average whole blocks while that leaves reducingGap. */
export function resize(image, width, height, filter, reducingGap) {
  const across = Math.max(1, Math.floor(image.width / width / reducingGap));
  const down = Math.max(1, Math.floor(image.height / height / reducingGap));
  const extent = [image.width / across, image.height / down];
  const reduced = across > 1 || down > 1 ? reduce(image, across, down) : image;
  const wide = width === reduced.width && extent[0] === width ? reduced : resizeRows(reduced, width, extent[0], filter);
  return height === wide.height && extent[1] === height ? wide : resizeColumns(wide, height, extent[1], filter);
}

/** Average blocks of across × down pixels; the last ones of a row or column may be smaller. */
function reduce(image, across, down) {
  const small = makeImage(Math.ceil(image.width / across), Math.ceil(image.height / down));
  const { pixels, width, height } = image;
  let out = 0;
  for (let y = 0; y < small.height; y++) {
    const bottom = Math.min(height, (y + 1) * down);
    for (let x = 0; x < small.width; x++) {
      const right = Math.min(width, (x + 1) * across);
      const count = (bottom - y * down) * (right - x * across);
      const multiplier = Math.floor(Math.fround(2 ** 24 / count));
      for (let channel = 0; channel < CHANNELS; channel++) {
        let sum = count >> 1;
        for (let row = y * down; row < bottom; row++) {
          const start = row * width;
          for (let column = x * across; column < right; column++) sum += pixels[(start + column) * CHANNELS + channel];
        }
        small.pixels[out++] = Math.floor((sum * multiplier) / 2 ** 24);
      }
    }
  }
  return small;
}

/** First input and fixed-point weights of every output along one axis, whose inputs span 0 … extent. */
function weightsAlong(inputs, extent, outputs, filter) {
  const { support, weight } = FILTERS[filter];
  const scale = extent / outputs;
  const spread = Math.max(scale, 1);
  const reach = support * spread;
  const all = [];
  for (let out = 0; out < outputs; out++) {
    const centre = (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(inputs, Math.trunc(centre + reach + 0.5));
    const weights = [];
    let total = 0;
    for (let index = first; index < end; index++) {
      weights.push(weight((index - centre + 0.5) / spread));
      total += weights.at(-1);
    }
    const whole = weights.map((value) => Math.trunc(0.5 + (total ? value / total : value) * 2 ** PRECISION));
    all.push({ first, weights: Int32Array.from(whole) });
  }
  return all;
}

function resizeRows(image, width, extent, filter) {
  const resized = makeImage(width, image.height);
  const columns = weightsAlong(image.width, extent, width, filter);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) {
      const { first, weights } = columns[x];
      const start = (y * image.width + first) * CHANNELS;
      weighted(image.pixels, start, CHANNELS, weights, resized.pixels, (y * width + x) * CHANNELS);
    }
  }
  return resized;
}

function resizeColumns(image, height, extent, filter) {
  const resized = makeImage(image.width, height);
  const rows = weightsAlong(image.height, extent, height, filter);
  const step = image.width * CHANNELS;
  for (let y = 0; y < height; y++) {
    const { first, weights } = rows[y];
    for (let x = 0; x < image.width; x++) {
      weighted(image.pixels, first * step + x * CHANNELS, step, weights, resized.pixels, y * step + x * CHANNELS);
    }
  }
  return resized;
}

/** One output pixel: a weighted sum of input pixels that lie `step` bytes apart. */
function weighted(pixels, start, step, weights, target, out) {
  let red = 1 << (PRECISION - 1);
  let green = red;
  let blue = red;
  for (let index = 0, from = start; index < weights.length; index++, from += step) {
    red += pixels[from] * weights[index];
    green += pixels[from + 1] * weights[index];
    blue += pixels[from + 2] * weights[index];
  }
  // No weight of these filters is negative and they sum to 1, so nothing leaves 0 … 255.
  target[out] = Math.min(255, red >> PRECISION);
  target[out + 1] = Math.min(255, green >> PRECISION);
  target[out + 2] = Math.min(255, blue >> PRECISION);
}

/**
 * Fill a new image by an affine map from its pixels to those of `image`, interpolated bilinearly; black outside.
 * `matrix` is [a, b, c, d, e, f]: (x, y) comes from (ax + by + c, dx + ey + f); pixel centres lie at halves.
 */
export function warp(image, width, height, matrix) {
  const warped = makeImage(width, height);
  const [a, b, c, d, e, f] = matrix;
  const { pixels } = image;
  const lastColumn = image.width - 1;
  const lastRow = image.height - 1;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const fromX = a * (column + 0.5) + b * (row + 0.5) + c;
      const fromY = d * (column + 0.5) + e * (row + 0.5) + f;
      if (fromX < 0 || fromX >= image.width || fromY < 0 || fromY >= image.height) continue;
      const x = Math.floor(fromX - 0.5);
      const y = Math.floor(fromY - 0.5);
      const right = fromX - 0.5 - x;
      const below = fromY - 0.5 - y;
      const x0 = Math.max(x, 0) * CHANNELS;
      const x1 = Math.min(x + 1, lastColumn) * CHANNELS;
      const y0 = Math.max(y, 0) * image.width * CHANNELS;
      const y1 = Math.min(y + 1, lastRow) * image.width * CHANNELS;
      const out = (row * width + column) * CHANNELS;
      for (let channel = 0; channel < CHANNELS; channel++) {
        const upper = pixels[y0 + x0 + channel];
        const lower = pixels[y1 + x0 + channel];
        const atTop = upper + (pixels[y0 + x1 + channel] - upper) * right;
        const atBottom = lower + (pixels[y1 + x1 + channel] - lower) * right;
        warped.pixels[out + channel] = atTop + (atBottom - atTop) * below;
      }
    }
  }
  return warped;
}
