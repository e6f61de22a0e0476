// One age of a person from many frames: agelens/video/fusion.py in the page.
//
// Frames of one person err together, so the distribution is the mean of theirs, weighted by how well each shows the
// face, and no narrower for their number.

import constants from "./constants.js";

/** The weight of a frame by the quality of its face, least … 1. */
export function frameWeight({ blur, eye_distance: distance, yaw, pitch, outside }, settings = constants.fusion) {
  let weight = falling(blur, settings.blur);
  if (distance !== null) weight *= falling(-distance, settings.eye_distance.toReversed().map((value) => -value));
  if (yaw !== null) weight *= falling(Math.abs(yaw), settings.yaw);
  if (pitch !== null) weight *= falling(Math.abs(pitch), settings.pitch);
  if (outside !== null) weight *= falling(outside, settings.outside);
  return Math.max(weight, settings.least);
}

/** 1 up to the ramp's start, 0 from its end on. */
function falling(value, [start, end]) {
  return Math.min(Math.max((end - value) / (end - start), 0), 1);
}

/** The age of a person, of all frames so far. */
export class RunningAge {
  #weight = 0;
  #mean = null;

  constructor(settings = constants.fusion) {
    this.settings = settings;
    this.frames = 0;
    this.age = 0;
  }

  add(age, distribution, weight) {
    this.frames++;
    this.#weight += weight;
    const share = weight / this.#weight;
    this.age += share * (age - this.age);
    this.#mean ??= new Array(distribution.length).fill(0);
    this.#mean = this.#mean.map((mass, index) => mass + share * (distribution[index] - mass));
  }

  /** The weighted mean of the frames' distributions, a little wider. */
  get distribution() {
    const wide = this.#mean.map((mass) => mass ** (1 / this.settings.widening));
    const total = wide.reduce((sum, mass) => sum + mass, 0);
    return wide.map((mass) => mass / total);
  }
}

/** The mean absolute deviation of ages from their mean. */
export function meanAbsoluteDeviation(ages) {
  const mean = ages.reduce((sum, age) => sum + age, 0) / ages.length;
  return ages.reduce((sum, age) => sum + Math.abs(age - mean), 0) / ages.length;
}
