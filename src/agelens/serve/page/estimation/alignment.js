// From a face in an image to the crop that the age network sees: agelens/faces/alignment.py in the page.

import constants from "./constants.js";
import { cut, padEdge, resize, roundHalfEven, warp } from "./resample.js";

const { oversampling: OVERSAMPLING } = constants.alignment; // pixels for one of the crop, which it is interpolated from

/** Least-squares similarity from `source` to `target` points: [a, b, c, d, e, f] as `warp` takes it; null if none. */
export function similarity(source, target) {
  const mean = (points, axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const [sourceX, sourceY, targetX, targetY] = [mean(source, 0), mean(source, 1), mean(target, 0), mean(target, 1)];
  let [real, imaginary, spread] = [0, 0, 0];
  source.forEach(([x, y], index) => {
    const [dx, dy] = [x - sourceX, y - sourceY];
    const [u, v] = [target[index][0] - targetX, target[index][1] - targetY];
    real += u * dx + v * dy;
    imaginary += v * dx - u * dy;
    spread += dx * dx + dy * dy;
  });
  if (spread <= 1e-12) return null;
  const [a, d] = [real / spread, imaginary / spread];
  return [a, -d, targetX - (a * sourceX - d * sourceY), d, a, targetY - (d * sourceX + a * sourceY)];
}

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

/** The crop of one axis: which pixels are read, how far it is moved and how much border is repeated. */
function along(corners, offset, length, margin) {
  let low = Math.floor(Math.min(...corners) - margin);
  let high = Math.ceil(Math.max(...corners) + margin);
  // Beyond the border nothing changes any more: a crop that lies outside may as well touch it.
  const shift = clip(low, low - high + 1, length - 1) - low;
  low += shift;
  high += shift;
  const first = clip(low, 0, length - 1);
  const end = clip(high, first + 1, length);
  return { low, high, first, end, offset: offset + shift };
}

/** Cut out a face by its five landmarks, upright and where the geometry wants it; null if the landmarks coincide. */
export function alignFace(image, landmarks, geometry) {
  const { size } = geometry;
  const template = geometry.template.map(([x, y]) => [x * size, y * size]);
  const matrix = similarity(template, landmarks);
  if (matrix === null) return null;
  const [a, b, c, d, e, f] = matrix;
  const zoom = Math.hypot(a, d); // image pixels for one pixel of the crop
  if (zoom === 0) return null;

  const margin = 3 * Math.max(zoom, 1);
  const corners = [[0, 0], [size, 0], [0, size], [size, size]];
  const x = along(corners.map(([u, v]) => a * u + b * v + c), c, image.width, margin);
  const y = along(corners.map(([u, v]) => d * u + e * v + f), f, image.height, margin);

  let picture = cut(image, x.first, y.first, x.end, y.end);
  const shrink = zoom / OVERSAMPLING;
  if (shrink > 1) {
    const width = Math.max(1, roundHalfEven(picture.width / shrink));
    const height = Math.max(1, roundHalfEven(picture.height / shrink));
    picture = resize(picture, width, height, "bilinear", 1);
  }
  const across = picture.width / (x.end - x.first);
  const down = picture.height / (y.end - y.first);
  const left = Math.ceil((x.first - x.low) * across);
  const right = Math.ceil((x.high - x.end) * across);
  const top = Math.ceil((y.first - y.low) * down);
  const bottom = Math.ceil((y.high - y.end) * down);
  if (left || right || top || bottom) picture = padEdge(picture, left, top, right, bottom);

  const columns = [a * across, b * across, (x.offset - x.first) * across + left];
  const rows = [d * down, e * down, (y.offset - y.first) * down + top];
  return warp(picture, size, size, [...columns, ...rows]);
}
