// The estimator in this page: a worker that is started when it is first asked for.

import { Problem } from "./problem.js";

export class Device {
  #worker = null;
  #loaded = false;
  #waiting = new Map();
  #asked = 0;
  #onBreakdown;

  /** `onBreakdown` is told when a worker that had loaded something breaks down, for it must be loaded again. */
  constructor(onBreakdown) {
    this.#onBreakdown = onBreakdown;
  }

  /** Get everything that estimating needs into memory; `report` hears the share that has come, 0 … 1. */
  async load(request, report) {
    await this.#ask("load", request, report);
    this.#loaded = true;
  }

  /** Estimate a photo; only after `load` with the same model. */
  estimate(request) {
    return this.#ask("estimate", request);
  }

  /** The people in the next frame, an ImageBitmap that is given away, of a clip or camera; only after `load`. */
  follow(request) {
    return this.#ask("follow", request, undefined, [request.bitmap]);
  }

  /** The people of a clip or camera that has ended. */
  finish(stream) {
    return this.#ask("finish", { stream });
  }

  #ask(task, request, report = () => {}, given = []) {
    this.#worker ??= this.#start();
    const id = this.#asked++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, report });
      this.#worker.postMessage({ id, task, request }, given);
    });
  }

  #start() {
    const worker = new Worker(new URL("./estimation/worker.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data: { id, result, problem, progress } }) => {
      const { resolve, reject, report } = this.#waiting.get(id);
      if (progress !== undefined) return report(progress);
      this.#waiting.delete(id);
      if (problem) reject(new Problem(problem.title, problem.detail, { status: problem.status }));
      else resolve(result);
    });
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#fail(worker, event.message || "its files could not be fetched");
    });
    return worker;
  }

  /** A worker that breaks down takes what it was asked with it; the next question starts another. */
  #fail(worker, why) {
    worker.terminate();
    this.#worker = null;
    for (const { reject } of this.#waiting.values()) {
      reject(new Problem("Estimation in this page stopped", why));
    }
    this.#waiting.clear();
    const told = this.#loaded;
    this.#loaded = false;
    if (told) this.#onBreakdown();
  }
}
