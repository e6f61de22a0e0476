// What the page writes and draws beside the pipeline: node --test tests/serve/twin

import assert from "node:assert/strict";
import test from "node:test";

import { page } from "./golden.mjs";

const { csv, rounded, stem } = await page("download.js");
const { clock, isClip, nearestFrame } = await page("clip.js");
const { stretches } = await page("timeline.js");

test("tables are quoted, and no cell is a formula", () => {
  const rows = [
    { path: '=HYPERLINK("http://a")', age: -1.5 },
    { path: "a, b\nc", age: null },
    { path: "-x" },
  ];
  const lines = csv(["path", "age"], rows).replace("\ufeff", "").split("\n");
  assert.deepEqual(lines, ["path,age", `"'=HYPERLINK(""http://a"")",-1.5`, '"a, b', 'c",', "'-x,", ""]);
});

test("numbers have as many digits as in Python's tables", () => {
  const row = { path: "a", age: 31.23456, p_at_least: 0.99995, time: 1.23456, frames: 3, low: null };
  const wanted = { path: "a", age: "31.23", p_at_least: "1.0000", time: "1.235", frames: 3, low: null };
  assert.deepEqual(rounded(row), wanted);
});

test("names of saved files", () => {
  assert.deepEqual(["a/b.c.mp4", "photo.JPG", ".png", "x"].map(stem), ["b.c", "photo", "result", "x"]);
});

test("clips by type, else by name", () => {
  const told = [["a.mp4", ""], ["a", "video/webm"], ["a.mp4", "image/png"], ["a.jpg", ""]];
  assert.deepEqual(told.map(([name, type]) => isClip({ name, type })), [true, true, false, false]);
});

test("times as minutes and seconds", () => {
  assert.deepEqual([0, 9.96, 59.96, 3599.5].map(clock), ["0:00.0", "0:10.0", "1:00.0", "59:59.5"]);
});

test("the frame nearest to a time", () => {
  const frames = [{ time: 0 }, { time: 1 }, { time: 1.4 }];
  const times = [-1, 0.4, 0.6, 1.1, 9].map((time) => nearestFrame(frames, time).time);
  assert.deepEqual(times, [0, 0, 1, 1, 1.4]);
  assert.equal(nearestFrame([], 1), null);
});

test("stretches of a person over a clip", () => {
  const frame = (time, ...people) => ({ time, people: people.map((person) => ({ person })) });
  const frames = [frame(0, 1), frame(0.4, 1, 2), frame(0.8, 1), frame(2, 1), frame(2.2, 2)];
  const wanted = [[1, [[0, 0.8], [2, 2]]], [2, [[0.4, 0.4], [2.2, 2.2]]]];
  assert.deepEqual([...stretches(frames)], wanted);
});
