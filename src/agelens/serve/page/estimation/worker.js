// The whole estimator in a worker: photo → faces → crops → age network. Once `load` has answered, nothing more is
// fetched, whatever happens to the server.

import { corrected } from "../distribution.js";
import { Problem, explain } from "../problem.js";
import { fetchBytes } from "../service.js";
import { alignFace } from "./alignment.js";
import { cropAppearance } from "./appearance.js";
import { decode } from "./decode.js";
import { pixelsOf } from "./frames.js";
import { MTCNN } from "./mtcnn.js";
import { People } from "./people.js";
import { faceQuality, faceWarnings, photoWarnings } from "./quality.js";
import { detectTurned } from "./turned.js";
import { YuNetONet } from "./yunet_onet.js";

const ENGINE = "../engine/ort.wasm.bundle.min.mjs";
const ENGINE_WASM = "/engine/ort-wasm-simd-threaded.wasm";
const BATCH = 32; // crops that the age network sees at once
const DETECTORS = {
  "yunet-onet": ([yunet, rnet, onet]) => new YuNetONet({ yunet, rnet, onet }),
  mtcnn: ([pnet, rnet, onet]) => new MTCNN({ pnet, rnet, onet }),
};

let runtime = null;
let detector = null;
const sessions = new Map(); // age networks by the address of their file
const streams = new Map(); // the people of clips and cameras by the name that the page gives them

/**
 * Fetch and start the engine, the detector and one age network, unless they are here already. `report` hears the share
 * of the engine and the age network that has come; the detector is small beside them.
 */
async function load({ model, detector: { name, networks }, engineBytes, token }, report) {
  const total = (runtime ? 0 : engineBytes) + (sessions.has(model.url) ? 0 : model.bytes);
  let loaded = 0;
  const fetched = (url) => fetchBytes(url, token, (bytes) => report((loaded += bytes) / total));
  if (runtime === null) {
    const ort = await import(ENGINE);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = (await fetched(ENGINE_WASM)).buffer;
    ort.env.logLevel = "error";
    runtime = ort;
  }
  if (detector === null) {
    const opened = [];
    for (const url of networks) opened.push(await open(await fetchBytes(url, token)));
    const runs = opened.map((session) => (data, dims) => run(session, new runtime.Tensor("float32", data, dims)));
    detector = DETECTORS[name](runs);
  }
  if (!sessions.has(model.url)) sessions.set(model.url, await open(await fetched(model.url)));
}

function open(file) {
  return runtime.InferenceSession.create(file, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
}

/** A network's outputs, in the order of its file, for its one input. */
async function run(session, tensor) {
  const results = await session.run({ [session.inputNames[0]]: tensor });
  return session.outputNames.map((name) => results[name]);
}

/** Estimate every face of a photo; the answer has the form of the service's. */
async function estimate({ photo, model, limits, warnings }) {
  const started = performance.now();
  const image = await decode(photo, limits.pixels).catch(() => {
    throw new Problem("This photo cannot be read", "The browser does not know its format, or the file is damaged.");
  });
  const { width, height } = image;
  const detected = await detectTurned(image, detector);
  const crops = detected
    .slice(0, limits.faces)
    .map((face) => ({ ...face, crop: alignFace(image, face.landmarks, model.geometry) }))
    .filter(({ crop }) => crop !== null);
  const faces = [];
  for (let start = 0; start < crops.length; start += BATCH) {
    const batch = crops.slice(start, start + BATCH);
    const { ages, distributions } = await estimateCrops(batch.map(({ crop }) => crop), model);
    batch.forEach(({ crop, ...face }, index) => {
      const quality = faceQuality(crop, face, width, height);
      const told = { quality, warnings: faceWarnings(quality, warnings) };
      const estimated = { age: ages[index], distribution: distributions[index] };
      faces.push({ ...face, box: inside(face.box, width, height), ...told, ...estimated });
    });
  }
  const milliseconds = performance.now() - started;
  const note = image.reduced ? `Made smaller in this page, to ${width} × ${height} pixels` : null;
  const found = photoWarnings(faces.length, detected.length - faces.length);
  return { width, height, faces, warnings: found, milliseconds, note };
}

/** A box, clipped to its photo. */
function inside(box, width, height) {
  return box.map((side, index) => Math.min(Math.max(side, 0), index % 2 ? height : width));
}

/** The age network and its calibration: an age and a distribution for each crop. */
async function estimateCrops(crops, model) {
  const { size } = model.geometry;
  const pixels = new Uint8Array(crops.length * size * size * 3);
  crops.forEach((crop, index) => pixels.set(crop.pixels, index * size * size * 3));
  const tensor = new runtime.Tensor("uint8", pixels, [crops.length, size, size, 3]);
  const results = await sessions.get(model.url).run({ images: tensor });
  const bins = results.distribution.dims[1];
  const distribution = (crop, index) => {
    const told = Array.from(results.distribution.data.slice(index * bins, (index + 1) * bins));
    return corrected(told, model.bins, model.calibration, cropAppearance(crop));
  };
  return { ages: Array.from(results.age.data), distributions: crops.map(distribution) };
}

/** The people in the next frame of a clip or camera; `time` in seconds, rising; `rest` as People takes it. */
async function follow({ stream, model, bitmap, time, rest }) {
  const started = performance.now();
  const image = pixelsOf(bitmap);
  if (!streams.has(stream)) {
    streams.set(stream, new People(detector, model.geometry, (crops) => estimateCrops(crops, model), rest));
  }
  const { width, height } = image;
  const found = await streams.get(stream).add(image, time);
  const people = found.map((person) => ({ ...person, box: inside(person.box, width, height) }));
  return { width, height, people, milliseconds: performance.now() - started };
}

/** The people of a clip or camera that has ended. */
function finish({ stream }) {
  const people = streams.get(stream)?.finish() ?? [];
  streams.delete(stream);
  return people;
}

const tasks = { load, estimate, follow, finish };
let last = Promise.resolve(); // one task after the other

self.addEventListener("message", ({ data: { id, task, request } }) => {
  last = last.then(async () => {
    try {
      const result = await tasks[task](request, (progress) => self.postMessage({ id, progress }));
      self.postMessage({ id, result });
    } catch (error) {
      self.postMessage({ id, problem: explain(error) });
    }
  });
});
