// Tracks and running ages of the page are Python's: node --test tests/serve/twin

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { apart, page } from "./golden.mjs";

const { RunningAge, frameWeight, meanAbsoluteDeviation } = await page("estimation/fusion.js");
const { FaceTracker } = await page("estimation/tracker.js");
const { People } = await page("estimation/people.js");

const golden = JSON.parse(readFileSync(new URL("clips.json", import.meta.url), "utf-8"));

/** A frame of the scene of scripts/twin_clips.py. */
function draw(background, faces) {
  const [width, height] = golden.tracks.size;
  const { side } = golden.tracks;
  const pixels = new Uint8Array(width * height * 3);
  const colour = [[40, 60, 0], [200, 20, 0]][background];
  for (let at = 0; at < pixels.length; at += 3) pixels.set(colour, at);
  for (const [face, left, top] of faces) {
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const [x, y] = [left + column, top + row];
        if (!(y >= 0 && y < height && x >= 0 && x < width)) continue;
        const quarter = Math.floor((row * 2) / side) * 2 + Math.floor((column * 2) / side);
        const red = 30 + 50 * ((quarter + face) % 4);
        const green = 30 + 50 * ((quarter * (1 + 2 * face)) % 4);
        pixels.set([red, green, 100 + 100 * face], 3 * (y * width + x));
      }
    }
  }
  return { width, height, pixels };
}

const meanOf = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The detector of the scene: Python's answers, as long as it is asked what Python asked. */
function recorded(calls) {
  const left = [...calls];
  return {
    left,
    async detect({ width, height, pixels }) {
      const call = left.shift();
      assert.ok(call, "the detector is asked more often than in Python");
      assert.deepEqual([width, height], [call.width, call.height]);
      assert.ok(Math.abs(meanOf(pixels) - call.mean) < 0.5, "the detector sees other pixels than in Python");
      return call.faces;
    },
  };
}

/** The mean colours of the quarters of a crop. */
function coarse({ width, pixels }) {
  const half = width / 2;
  const sums = new Array(12).fill(0);
  for (let y = 0; y < width; y++) {
    for (let x = 0; x < width; x++) {
      const quarter = Math.floor(y / half) * 2 + Math.floor(x / half);
      for (let channel = 0; channel < 3; channel++) sums[3 * quarter + channel] += pixels[3 * (y * width + x) + channel];
    }
  }
  return sums.map((sum) => sum / half ** 2);
}

test("tracks of a scene with a hidden face, one that leaves, and a cut", async () => {
  const { frames, geometry, settings } = golden.tracks;
  const detector = recorded(frames.flatMap(({ calls }) => calls));
  const tracker = new FaceTracker(detector, geometry, settings);
  let left = detector.left.length;
  for (const [number, { time, background, drawn, calls, ...wanted }] of frames.entries()) {
    const found = await tracker.step(draw(background, drawn), time);
    left -= calls.length;
    assert.equal(detector.left.length, left, `searches in frame ${number}`);
    for (const name of ["ended", "cut", "searched", "looked"]) assert.deepEqual(found[name], wanted[name], `${name} ${number}`);
    const told = ({ track, confirmed }) => [track, confirmed];
    assert.deepEqual(found.sightings.map(told), wanted.sightings.map(told), `frame ${number}`);
    found.sightings.forEach(({ face, crop }, index) => {
      const { face: wantedFace, crop: colours } = wanted.sightings[index];
      assert.ok(apart([face.box, ...face.landmarks], [wantedFace.box, ...wantedFace.landmarks]) < 1e-3);
      assert.ok(apart(coarse(crop), colours) < 0.5);
    });
  }
  const ended = frames.flatMap((frame) => frame.ended);
  assert.ok(ended.length >= 2 && frames.some(({ cut }) => cut), "the scene has ends and a cut");
  const most = Math.max(...frames.flatMap(({ sightings }) => sightings.map(({ track }) => track)));
  const last = frames.flatMap(({ sightings }) => sightings).filter(({ track }) => track === most);
  assert.ok(last.length >= 4 && !last.some(({ confirmed }) => confirmed), "and a face with a rival");
});

test("people of the scene, with one age each", async () => {
  const { frames, geometry, rate } = golden.tracks;
  const distribution = Array.from({ length: 101 }, (_, age) => (age === 30 ? 0.5 : 0.005));
  const estimateCrops = async (crops) => ({
    ages: crops.map((_, index) => 30 + index),
    distributions: crops.map(() => distribution),
  });
  const faces = frames[20].sightings.map(({ face }) => face);
  const people = new People({ detect: async ({ width }) => (width > 150 ? faces : []) }, geometry, estimateCrops);
  const image = draw(0, frames[20].drawn);
  const shown = [];
  for (let number = 0; number < 16; number++) shown.push(await people.add(image, number / rate));
  assert.deepEqual(shown.map((told) => told.map(({ person }) => person)).filter(({ length }) => length > 0).at(-1), [1, 2]);
  assert.deepEqual(shown[0], [], "who was seen once is no person yet");
  const finished = people.finish();
  assert.deepEqual(finished.map(({ person }) => person), [1, 2]);
  assert.deepEqual(finished.map(({ age }) => Math.round(age)), [30, 31]);
  assert.ok(finished.every(({ deviation, distribution: told }) => deviation < 1e-9 && told.length === 101));
});

test("weights of frames", () => {
  golden.weights.forEach(({ quality, weight }, index) => {
    assert.ok(Math.abs(frameWeight(quality) - weight) < 1e-5, `frame ${index}`);
  });
  const unknown = { eye_distance: null, yaw: null, pitch: null, outside: null };
  assert.equal(frameWeight({ blur: 0, ...unknown }), 1, "what is not known does not count");
});

test("the age of a person, frame by frame", () => {
  const running = new RunningAge();
  for (const { age, distribution, weight, shown } of golden.ages.frames) {
    running.add(age, distribution, weight);
    assert.ok(Math.abs(running.age - shown.age) < 1e-4);
    assert.ok(apart(running.distribution, shown.distribution) < 1e-4);
  }
  const deviation = meanAbsoluteDeviation(golden.ages.frames.map(({ age }) => age));
  assert.ok(Math.abs(deviation - golden.ages.deviation) < 1e-4);
});
