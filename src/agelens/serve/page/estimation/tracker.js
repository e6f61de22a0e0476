// Tracks of faces over the frames of a clip or a camera: agelens/video/tracker.py in the page.
//
// Between two searches of the whole frame every known face is searched in a small upright window about the place where
// it should be. A face that is not seen keeps its track for a while. docs/video.md describes every step.

import { alignFace, similarity } from "./alignment.js";
import constants from "./constants.js";
import { detectTurned } from "./turned.js";

const sum = (values) => values.reduce((total, value) => total + value, 0);
const dot = (one, other) => one.reduce((total, value, index) => total + value * other[index], 0);
const middle = (points) => [0, 1].map((axis) => sum(points.map((point) => point[axis])) / points.length);

export class FaceTracker {
  #tracks = [];
  #number = 0;
  #scene = null;
  #looked = -Infinity;
  #searched = -Infinity;
  #turned = -Infinity;
  #turnedAfter;

  /** `detector` finds faces with five landmarks; `geometry` is that of the crops; `settings` for tests. */
  constructor(detector, geometry, settings = {}) {
    this.detector = detector;
    this.geometry = geometry;
    this.settings = { ...constants.tracking, ...settings };
    this.window = windowGeometry(geometry, this.settings);
    this.#turnedAfter = this.settings.turned_every;
  }

  /**
   * Find the known faces, and new ones where it is time, in the next frame; `time` in seconds, rising. Gives
   * {sightings: [{track, face, crop, confirmed}], ended: tracks that end before this frame, cut, searched, looked};
   * `looked` is false where the last look was just before, so that nothing was looked for.
   */
  async step(image, time) {
    const cut = this.#cut(image);
    if (time - this.#looked < this.settings.look_every && !cut) {
      return { sightings: [], ended: [], cut, searched: false, looked: false };
    }
    this.#looked = time;
    const seen = new Map(); // candidates by the number of their track
    for (const track of this.#tracks) {
      const found = await this.#follow(image, track, time, cut);
      if (found !== null) seen.set(track.number, found);
    }
    this.#resolve(seen);
    const ended = cut ? this.#end(seen, time, true) : [];
    const searched = this.#due(time, seen, cut);
    if (searched) await this.#search(image, time, seen);
    ended.push(...this.#end(seen, time, false));
    const live = new Set(this.#tracks.map(({ number }) => number));
    const sightings = [];
    for (const track of this.#tracks) {
      if (!seen.has(track.number)) continue;
      const { face, crop } = seen.get(track.number);
      this.#update(track, seen.get(track.number), time);
      const rivals = track.rivals.some((number) => live.has(number));
      const confirmed = track.sightings >= this.settings.confirm && !rivals;
      sightings.push({ track: track.number, face, crop, confirmed });
    }
    return { sightings, ended, cut, searched, looked: true };
  }

  /** End tracks that were not seen: all of them at a cut, else those whose face was not for too long. */
  #end(seen, time, cut) {
    const { confirm, coast, gap } = this.settings;
    const patience = ({ sightings }) => (sightings >= confirm ? coast : gap); // no person yet: for a gap only
    const goesOn = (track) => seen.has(track.number) || (!cut && time - track.seen <= patience(track));
    const ended = this.#tracks.filter((track) => !goesOn(track)).map(({ number }) => number);
    this.#tracks = this.#tracks.filter(goesOn);
    return ended;
  }

  /** Compare the frame with the last one at a grid of points. */
  #cut({ width, height, pixels }) {
    const { scene: side, scene_colours: levels, cut_levels: least, cut_colours: most } = this.settings;
    const scene = new Uint8Array(side * side * 3);
    for (let row = 0, out = 0; row < side; row++) {
      const y = Math.floor(((2 * row + 1) * height) / (2 * side));
      for (let column = 0; column < side; column++, out += 3) {
        const from = (y * width + Math.floor(((2 * column + 1) * width) / (2 * side))) * 3;
        scene.set(pixels.subarray(from, from + 3), out);
      }
    }
    const before = this.#scene;
    this.#scene = scene;
    if (before === null) return false;
    let moved = 0;
    scene.forEach((value, index) => (moved += Math.abs(value - before[index])));
    if (moved / scene.length < least) return false;
    const counts = new Int32Array(levels ** 3);
    const count = (points, step) => {
      const level = (index) => Math.floor(points[index] / Math.floor(256 / levels));
      for (let at = 0; at < points.length; at += 3) {
        counts[level(at) * levels ** 2 + level(at + 1) * levels + level(at + 2)] += step;
      }
    };
    count(scene, 1);
    count(before, -1);
    return sum([...counts].map(Math.abs)) / (2 * side * side) >= most;
  }

  /** Search a known face about the place where it should be. */
  async #follow(image, track, time, cut) {
    const place = this.#expected(track, time);
    const [x, y] = middle(place);
    if (!(x >= 0 && x < image.width && y >= 0 && y < image.height)) return null;
    const window = alignFace(image, place, this.window);
    if (window === null) return null;
    const { template, size } = this.window;
    const toImage = similarity(template.map((point) => point.map((value) => value * size)), place);
    let best = null;
    for (const found of await this.detector.detect(window)) {
      const face = moved(found, toImage);
      const { gone, growth } = apart(face.landmarks, place);
      if (gone > this.settings.reach || growth > this.settings.growth) continue;
      if (best === null || gone < best.gone) best = { gone, face };
    }
    const candidate = best && this.#candidate(image, best.face);
    if (candidate === null) return null;
    const least = cut ? this.settings.alike_cut : this.#leastAlike(time - track.seen);
    return dot(candidate.look, track.look) < least ? null : candidate;
  }

  #leastAlike(unseen) {
    return unseen > this.settings.gap ? this.settings.alike_unseen : this.settings.alike;
  }

  /** Where two tracks found one face, leave it to the one that it looks like. */
  #resolve(seen) {
    const looks = new Map(this.#tracks.map(({ number, look }) => [number, look]));
    const numbers = [...seen.keys()].toSorted((one, other) => one - other);
    for (const first of numbers) {
      for (const second of numbers) {
        if (first >= second || !seen.has(first) || !seen.has(second)) continue;
        if (overlap(seen.get(first).face.box, seen.get(second).face.box) < this.settings.overlap) continue;
        const [one, other] = [first, second].map((number) => dot(seen.get(number).look, looks.get(number)));
        seen.delete(one >= other ? second : first);
      }
    }
  }

  #due(time, seen, cut) {
    const since = time - this.#searched;
    const lost = seen.size < this.#tracks.length;
    return cut || since >= this.settings.detect_every || (lost && since >= this.settings.detect_again);
  }

  /** Search the whole frame: faces go to tracks that were not seen, the rest begin new ones. */
  async #search(image, time, seen) {
    this.#searched = time;
    const isKnown = (face) =>
      [...seen.values()].some(
        (known) =>
          overlap(face.box, known.face.box) >= this.settings.overlap ||
          apart(face.landmarks, known.face.landmarks).gone <= 1,
      );
    const detected = await this.#detected(image, time);
    const candidates = detected
      .filter((face) => !isKnown(face))
      .map((face) => this.#candidate(image, face))
      .filter((candidate) => candidate !== null);
    const missing = this.#tracks.filter(({ number }) => !seen.has(number));
    const pairs = [];
    candidates.forEach((candidate, index) => {
      for (const track of missing) {
        const cost = this.#cost(track, candidate, time);
        if (cost !== null) pairs.push({ cost, number: track.number, index });
      }
    });
    pairs.sort((one, other) => one.cost - other.cost || one.number - other.number || one.index - other.index);
    const taken = new Set();
    for (const { number, index } of pairs) {
      if (seen.has(number) || taken.has(index)) continue;
      seen.set(number, candidates[index]);
      taken.add(index);
    }
    const begun = [];
    candidates.forEach((candidate, index) => {
      if (taken.has(index)) return;
      begun.push(this.#begun(candidate, time, seen));
      seen.set(this.#number, candidate);
    });
    this.#tracks.push(...begun);
  }

  /** A new track; unseen ones in whose place it begins are its rivals: it is no person before they have ended. */
  #begun({ points, look }, time, seen) {
    const rivals = this.#tracks
      .filter(({ number }) => !seen.has(number))
      .filter((track) => apart(points, this.#expected(track, time)).gone <= this.settings.reach)
      .map(({ number }) => number);
    return { number: ++this.#number, points, look, seen: time, velocity: [0, 0], rivals, sightings: 0 };
  }

  /** The faces of a frame; of a turned one too, while nothing or only turned faces are known. */
  async #detected(image, time) {
    if (this.#tracks.length > 0 && this.#tracks.every(({ points }) => isTurned(points))) {
      return detectTurned(image, this.detector);
    }
    if (this.#tracks.length > 0 || time - this.#turned < this.#turnedAfter) return this.detector.detect(image);
    const faces = await detectTurned(image, this.detector);
    this.#turned = time;
    const longer = Math.min(2 * this.#turnedAfter, this.settings.turned_longest);
    this.#turnedAfter = faces.length > 0 ? this.settings.turned_every : longer;
    return faces;
  }

  /** The cost of giving a face to a track that was not seen; null where it cannot be the same. */
  #cost(track, candidate, time) {
    const { settings } = this;
    const unseen = time - track.seen;
    const { gone, growth } = apart(candidate.points, this.#expected(track, time));
    const likeness = dot(candidate.look, track.look);
    const reach = Math.min(settings.reach + settings.reach_per_second * unseen, settings.farthest);
    if (gone > reach || growth > settings.growth_unseen || likeness < this.#leastAlike(unseen)) return null;
    return gone / reach + Math.log(growth) + (1 - likeness);
  }

  /** The points where a face should be, by its velocity, which fades while it is not seen. */
  #expected({ points, velocity, seen }, time) {
    const fade = this.settings.velocity_fade;
    const seconds = fade * (1 - Math.exp(-(time - seen) / fade));
    return points.map(([x, y]) => [x + velocity[0] * seconds, y + velocity[1] * seconds]);
  }

  #candidate(image, face) {
    const crop = alignFace(image, face.landmarks, this.geometry);
    if (crop === null) return null;
    return { face, points: face.landmarks, crop, look: lookOf(crop, this.settings.grid) };
  }

  #update(track, { points, look }, time) {
    const { velocity_memory: memory, look_memory: lookMemory } = this.settings;
    const elapsed = time - track.seen;
    if (track.sightings > 0 && elapsed > 0) {
      const [now, before] = [middle(points), middle(track.points)];
      track.velocity = track.velocity.map(
        (value, axis) => memory * value + ((1 - memory) * (now[axis] - before[axis])) / elapsed,
      );
    }
    const kept = track.sightings > 0 ? lookMemory : 0;
    const mixed = look.map((value, index) => kept * track.look[index] + (1 - kept) * value);
    const length = Math.max(Math.sqrt(dot(mixed, mixed)), 1e-12);
    track.look = mixed.map((value) => value / length);
    Object.assign(track, { points, seen: time });
    track.sightings++;
  }
}

/** The geometry of the window: that of the crop, smaller, with its surroundings. */
function windowGeometry({ template }, { window: size, window_template: share }) {
  return { size, template: template.map((point) => point.map((value) => (value - 0.5) * share + 0.5)) };
}

/** A face of a window in pixels of the frame; its box keeps its sides and stands upright. */
function moved({ box: [x1, y1, x2, y2], confidence, landmarks }, [a, b, c, d, e, f]) {
  const move = ([x, y]) => [a * x + b * y + c, d * x + e * y + f];
  const [x, y] = move([(x1 + x2) / 2, (y1 + y2) / 2]);
  const half = [Math.abs(x2 - x1) / 2, Math.abs(y2 - y1) / 2];
  let across = Math.abs(a) * half[0] + Math.abs(b) * half[1];
  let down = Math.abs(d) * half[0] + Math.abs(e) * half[1];
  if (Math.abs(b) < Math.abs(a)) {
    // Less than 45 degrees: the sides, not the hull.
    [across, down] = half.map((side) => side * Math.hypot(a, d));
  }
  return { box: [x - across, y - down, x + across, y + down], confidence, landmarks: landmarks.map(move) };
}

/** Root mean square distance of points from their middle; at least a pixel. */
function scaleOf(points) {
  const [x, y] = middle(points);
  return Math.max(Math.sqrt(sum(points.map(([u, v]) => (u - x) ** 2 + (v - y) ** 2)) / points.length), 1);
}

/** Distance of two faces in scales of the larger one, and the ratio of their scales, at least 1. */
function apart(points, others) {
  const [small, large] = [scaleOf(points), scaleOf(others)].sort((one, other) => one - other);
  const [[x, y], [u, v]] = [middle(points), middle(others)];
  return { gone: Math.hypot(x - u, y - v) / large, growth: large / small };
}

/** Whether the line from eye to eye is steeper than 45 degrees, or upside down. */
function isTurned([left, right]) {
  return Math.abs(right[1] - left[1]) > right[0] - left[0];
}

/** A face's look: the mean colours of grid × grid blocks, of mean 0 and length 1. */
function lookOf({ width, pixels }, grid) {
  const side = Math.max(1, Math.floor(width / grid));
  const repeat = width < grid ? grid : 1; // a crop of fewer pixels than blocks
  const blocks = new Array(grid * grid * 3).fill(0);
  for (let y = 0; y < side * grid; y++) {
    const row = Math.floor(y / side) * grid;
    const from = Math.floor(y / repeat) * width;
    for (let x = 0; x < side * grid; x++) {
      const block = 3 * (row + Math.floor(x / side));
      const pixel = 3 * (from + Math.floor(x / repeat));
      for (let channel = 0; channel < 3; channel++) blocks[block + channel] += pixels[pixel + channel];
    }
  }
  const means = blocks.map((total) => total / (side * side));
  const mean = sum(means) / means.length;
  const look = means.map((value) => value - mean);
  const length = Math.max(Math.sqrt(dot(look, look)), 1e-12);
  return look.map((value) => value / length);
}

/** Intersection over union of two boxes. */
function overlap(box, other) {
  const width = Math.min(box[2], other[2]) - Math.max(box[0], other[0]);
  const height = Math.min(box[3], other[3]) - Math.max(box[1], other[1]);
  if (width <= 0 || height <= 0) return 0;
  const [area, otherArea] = [box, other].map(([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1));
  return (width * height) / (area + otherArea - width * height);
}
