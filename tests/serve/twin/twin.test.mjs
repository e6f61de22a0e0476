// The page's pipeline gives what Python gives: node --test tests/serve/twin

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import test from "node:test";

import { apart, floats, golden, noise, page, unpack } from "./golden.mjs";

const { alignFace } = await page("estimation/alignment.js");
const { cropAppearance } = await page("estimation/appearance.js");
const { corrected, interval, parseBins, probabilityAtLeast } = await page("distribution.js");
const { MTCNN } = await page("estimation/mtcnn.js");
const { blurEffect, faceQuality, faceWarnings } = await page("estimation/quality.js");
const { resize } = await page("estimation/resample.js");
const { detectTurned, turn, turnBack } = await page("estimation/turned.js");
const { YuNetONet } = await page("estimation/yunet_onet.js");

for (const { noise: drawn, to, filter, reducing_gap: gap, sha256 } of golden.resize) {
  test(`resize ${drawn.slice(0, 2)} to ${to}, ${filter}, bit for bit`, () => {
    const { pixels } = resize(noise(drawn), ...to, filter, gap);
    assert.equal(createHash("sha256").update(pixels).digest("hex"), sha256);
  });
}

golden.alignment.forEach(({ noise: drawn, landmarks, geometry, crop, blur, appearance }, index) => {
  test(`alignment ${index}, within a grey level`, () => {
    const found = alignFace(noise(drawn), landmarks, geometry);
    assert.ok(apart(found.pixels, unpack(crop)) <= 1);
    assert.ok(apart(blurEffect(found), blur) <= 1e-3);
    const look = cropAppearance(found);
    assert.deepEqual(Object.keys(look), Object.keys(appearance));
    assert.ok(apart(Object.values(look), Object.values(appearance)) <= 1e-3);
  });
});

/** A network that gives Python's answers, as long as it is asked what Python asked. */
function recorded(calls, name) {
  const byte = name === "yunet" ? (value) => value : (value) => Math.round(value * 128 + 127.5);
  const left = [...calls];
  return async (input, dims) => {
    const call = left.shift();
    assert.ok(call, `${name} is asked more often than in Python`);
    assert.deepEqual(dims, call.dims, name);
    const pixels = Array.from(input, byte);
    assert.ok(apart(pixels, unpack(call.pixels)) <= 1, `${name} sees other pixels than in Python`);
    return call.outputs.map(({ data, dims: shape }) => ({ data: floats(data), dims: shape }));
  };
}

for (const { quarters, sha256, face, original } of golden.turned) {
  test(`image and face turned by ${quarters} quarters`, () => {
    const image = noise([13, 8, 4]);
    const { width, height, pixels } = turn(image, quarters);
    assert.deepEqual([width, height], quarters % 2 ? [8, 13] : [13, 8]);
    assert.equal(createHash("sha256").update(Uint8Array.from(pixels)).digest("hex"), sha256);
    const { box, landmarks } = turnBack(face, quarters, image);
    assert.deepEqual([box, landmarks], [original.box, original.landmarks]);
  });
}

test("a turned picture counts only where its mirror image agrees", async () => {
  const certain = { box: [1, 1, 5, 5], confidence: 0.999, landmarks: [] };
  const detector = (answers) => ({ detect: async () => answers.shift() });
  const image = noise([13, 8, 4]);
  assert.deepEqual(await detectTurned(image, detector([[certain]])), [certain]);
  const [face] = await detectTurned(image, detector([[], [certain], [certain], [], []]));
  assert.deepEqual(face.box, [8, 1, 12, 5]);
  assert.deepEqual(await detectTurned(image, detector([[], [certain], [], [], []])), []);
});

for (const [name, Detector, cases] of [
  ["MTCNN", MTCNN, golden.mtcnn],
  ["YuNet and O-Net", YuNetONet, golden.yunet_onet],
]) {
  cases.forEach(({ image, settings, calls, faces }, index) => {
    test(`${name}: faces of portrait ${index}, boxes and landmarks within a thousandth of a pixel`, async () => {
      const networks = Object.fromEntries(Object.entries(calls).map(([key, all]) => [key, recorded(all, key)]));
      const { width, height } = image;
      const found = await new Detector(networks, settings).detect({ width, height, pixels: unpack(image.pixels) });
      assert.equal(found.length, faces.length);
      faces.forEach(({ box, landmarks, confidence, upright }, face) => {
        assert.ok(apart(found[face].box, box) < 1e-3);
        assert.ok(apart(found[face].landmarks, landmarks) < 1e-3);
        assert.ok(apart(found[face].confidence, confidence) < 1e-6);
        assert.ok(apart(found[face].upright ?? 0, upright ?? 0) < 1e-6);
      });
    });
  });
}

golden.quality.faces.forEach(({ box, landmarks, quality, warnings }, index) => {
  test(`quality and warnings of face ${index}`, () => {
    const { noise: drawn, width, height, thresholds } = golden.quality;
    const found = faceQuality(noise(drawn), { box, landmarks }, width, height);
    assert.deepEqual(Object.keys(found).toSorted(), Object.keys(quality).toSorted());
    for (const [measure, wanted] of Object.entries(quality)) {
      assert.ok(apart(found[measure], wanted) < (measure === "blur" ? 1e-4 : 1e-6), measure);
    }
    assert.deepEqual(faceWarnings(found, thresholds), warnings);
  });
});

test("the faces of the golden file bring out every warning of a pose, a size and a border", () => {
  const codes = golden.quality.faces.flatMap(({ warnings }) => warnings.map(({ code }) => code));
  assert.deepEqual([...new Set(codes)].toSorted(), ["extreme_pose", "too_small", "truncated"]);
});

golden.distribution.cases.forEach(({ distribution, calibrated, plain, at_least: chances }, index) => {
  test(`intervals and probabilities of distribution ${index}`, () => {
    const { age_bins: told, calibration, levels, thresholds } = golden.distribution;
    const bins = parseBins(told);
    const intervals = (by) => levels.map((level) => interval(distribution, bins, by, level));
    assert.ok(apart(intervals(calibration), calibrated) < 1e-6);
    assert.ok(apart(intervals(null), plain) < 1e-6);
    const found = thresholds.map((years) => probabilityAtLeast(distribution, bins, years));
    assert.ok(apart(found, chances) < 1e-9);
  });
});

golden.distribution.cases.forEach(({ distribution, appearance, corrected: wanted }, index) => {
  test(`distribution ${index}, corrected by the look of a crop`, () => {
    const { age_bins: told, calibration } = golden.distribution;
    assert.ok(apart(corrected(distribution, parseBins(told), calibration, appearance), wanted) < 1e-6);
    const { shift: _, ...without } = calibration;
    assert.deepEqual(corrected(distribution, parseBins(told), without, appearance), distribution);
  });
});
