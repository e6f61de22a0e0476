// The people of a clip or before a camera, frame by frame: agelens/video/estimate.py in the page.

import constants from "./constants.js";
import { RunningAge, frameWeight, meanAbsoluteDeviation } from "./fusion.js";
import { faceQuality } from "./quality.js";
import { FaceTracker } from "./tracker.js";

export class People {
  #followed = new Map(); // tracks with their age so far
  #persons = 0;
  #looks = 0;
  #seen = []; // the people when faces were last looked for

  /**
   * `estimateCrops(crops)` gives {ages, distributions}. `rest`: seconds for which a person whose age has settled is
   * followed without an estimate; 0, as in Python, estimates in every frame.
   */
  constructor(detector, geometry, estimateCrops, rest = 0) {
    this.tracker = new FaceTracker(detector, geometry);
    this.estimateCrops = estimateCrops;
    this.rest = rest;
    this.finished = []; // people whose tracks have ended
  }

  /**
   * The people of the next frame: [{person, box, confidence, age, shown: {age, distribution}, weight, settled}], `age`
   * of this frame alone, null if it was not estimated, `shown` of all so far. `time` in seconds, rising.
   */
  async add(image, time) {
    const { sightings, ended, looked } = await this.tracker.step(image, time);
    if (!looked) return this.#seen;
    this.#looks++;
    this.#end(ended);
    const seen = sightings.map((sighting) => {
      const { track } = sighting;
      if (!this.#followed.has(track)) this.#followed.set(track, newlyFollowed(time));
      return { ...sighting, followed: this.#followed.get(track), age: null, weight: null };
    });
    await this.#estimate(image, time, seen);
    const people = [];
    for (const { followed, face, confirmed, age, weight } of seen) {
      if (!confirmed) continue;
      followed.person ??= ++this.#persons;
      const shown = { age: followed.running.age, distribution: followed.running.distribution };
      if (age !== null) followed.shown.push(shown.age);
      const { box, confidence } = face;
      const settled = isSettled(followed, time);
      people.push({ person: followed.person, box, confidence, age, shown, weight, settled });
    }
    this.#seen = people.sort((one, other) => one.person - other.person);
    return this.#seen;
  }

  /** Estimate the faces whose turn it is, and add each to its person. */
  async #estimate(image, time, seen) {
    const due = seen.filter(({ followed }) => !isSettled(followed, time) || time - followed.estimated >= this.rest);
    if (due.length > 0) {
      const { ages, distributions } = await this.estimateCrops(due.map(({ crop }) => crop));
      due.forEach((sighting, index) => {
        const { followed, face, crop } = sighting;
        const weight = frameWeight(faceQuality(crop, face, image.width, image.height));
        followed.running.add(ages[index], distributions[index], weight);
        followed.ages.push(ages[index]);
        followed.estimated = time;
        Object.assign(sighting, { age: ages[index], weight });
      });
    }
    for (const { followed } of seen) followed.last = time;
  }

  /** All people, once the last frame has come. */
  finish() {
    this.#end([...this.#followed.keys()]);
    return this.finished;
  }

  /** Finish tracks; one that was seen too rarely to be a person counts in the shortest clips alone. */
  #end(tracks) {
    for (const track of tracks) {
      const followed = this.#followed.get(track);
      this.#followed.delete(track);
      if (followed.person === null) {
        if (this.#looks >= constants.tracking.confirm) continue;
        followed.person = ++this.#persons;
        followed.shown.push(followed.running.age);
      }
      const { person, first, last, running, ages, shown } = followed;
      this.finished.push({
        person,
        first,
        last,
        frames: running.frames,
        age: running.age,
        distribution: running.distribution,
        deviation: meanAbsoluteDeviation(ages),
        shown_deviation: meanAbsoluteDeviation(shown),
      });
    }
    this.finished.sort((one, other) => one.person - other.person);
  }
}

/** A track that is seen first at `time`, with its age so far. */
function newlyFollowed(time) {
  const running = new RunningAge();
  return { first: time, last: time, estimated: time, person: null, running, ages: [], shown: [] };
}

function isSettled({ first }, time) {
  return time - first >= constants.fusion.settled;
}
