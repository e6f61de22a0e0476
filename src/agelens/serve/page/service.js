// The service over HTTP.

import { Problem } from "./problem.js";
import { reduce } from "./reduce.js";

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
    kind: told.type?.split(":").at(-1) ?? null,
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

/**
 * Estimate a photo; the answer is that of one image of POST /v1/estimate, with a `note` if the photo was made smaller.
 * A busy service is asked again.
 */
export async function estimate(photo, { model, token, limits }) {
  const query = new URLSearchParams({ model: model.name });
  const headers = { "Content-Type": "application/octet-stream" };
  let sent = { photo, note: null };
  if (photo.size > limits.body_bytes) sent = await reduce(photo, limits);
  for (let attempt = 1; ; attempt++) {
    try {
      const options = { method: "POST", headers, body: sent.photo };
      const response = await request(`/v1/estimate?${query}`, token, options);
      const { images, milliseconds } = await response.json();
      return { ...images[0], milliseconds, note: sent.note };
    } catch (problem) {
      if (problem.kind === "image-too-large" && sent.note === null) {
        sent = await reduce(photo, limits);
        continue;
      }
      if (problem.status !== 503 || attempt >= TRIES) throw problem;
      await new Promise((wake) => setTimeout(wake, 1000 * (problem.retryAfter ?? attempt)));
    }
  }
}
