// The service over HTTP.

import { Problem } from "./problem.js";

const TRIES = 5; // for a photo that a busy service turns away

/** Where a path of the service lies, even if the page is served below one of another server. */
const address = (path) => new URL(path.replace(/^\//, ""), new URL("./", import.meta.url));

async function request(path, token, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(address(path), { ...options, headers, cache: "no-cache" });
  } catch {
    throw new Problem("The server does not answer", "It may have been stopped, or the connection is gone.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const told = answer.images?.[0] ?? answer; // a photo's own problem says more than that no photo could be used
  throw new Problem(told.title ?? `The server answered ${response.status}`, told.detail ?? "", {
    status: response.status,
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

/** What GET /v1/models tells: models, detector, limits, thresholds of the warnings. */
export async function fetchOffer(token) {
  return (await request("/v1/models", token)).json();
}

/** The engine that estimates in the browser: {missing, bytes}, why there is none (or null) and its size. */
export async function fetchEngine() {
  const response = await request("/engine/manifest.json", null).catch((problem) => {
    if (problem.status === 404) return null;
    throw problem;
  });
  if (response === null) return { missing: "this installation was made without the engine for it", bytes: 0 };
  const { missing = null, files = [] } = await response.json();
  return { missing, bytes: files.reduce((sum, file) => sum + file.bytes, 0) };
}

/** A file's bytes; `report` hears of every piece's length. */
export async function fetchBytes(path, token, report = () => {}) {
  const response = await request(path, token);
  const pieces = [];
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      report(value.length);
    }
  } catch {
    throw new Problem("The connection broke", `${path} did not arrive whole.`);
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** Estimate a photo; the answer is that of one image of POST /v1/estimate. A busy service is asked again. */
export async function estimate(photo, { model, token, limits }) {
  if (photo.size > limits.body_bytes) {
    const mebibytes = (bytes) => (bytes / 2 ** 20).toFixed(1);
    throw new Problem(
      "This file is too large for the server",
      `It has ${mebibytes(photo.size)} MiB; the server takes ${mebibytes(limits.body_bytes)} MiB.`,
    );
  }
  const query = new URLSearchParams({ model: model.name });
  const headers = { "Content-Type": "application/octet-stream" };
  for (let attempt = 1; ; attempt++) {
    try {
      const response = await request(`/v1/estimate?${query}`, token, { method: "POST", headers, body: photo });
      const { images, milliseconds } = await response.json();
      return { ...images[0], milliseconds };
    } catch (problem) {
      if (problem.status !== 503 || attempt === TRIES) throw problem;
      await new Promise((wake) => setTimeout(wake, 1000 * (problem.retryAfter ?? attempt)));
    }
  }
}
