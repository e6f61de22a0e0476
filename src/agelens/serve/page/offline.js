// The page without its server: its files are kept in the browser while photos stay on this device.

const CACHE = "agelens";

/** Every file that the page and its estimator need, beside the models. */
export const FILES = [
  "./",
  "app.js",
  "camera.js",
  "chart.js",
  "clip.js",
  "device.js",
  "distribution.js",
  "download.js",
  "example.jpg",
  "files.js",
  "gallery.js",
  "icon.svg",
  "live.js",
  "moving.js",
  "names.js",
  "offline.js",
  "photo.js",
  "problem.js",
  "reduce.js",
  "service.js",
  "style.css",
  "timeline.js",
  "estimation/alignment.js",
  "estimation/appearance.js",
  "estimation/constants.js",
  "estimation/decode.js",
  "estimation/frames.js",
  "estimation/fusion.js",
  "estimation/mtcnn.js",
  "estimation/mtcnn_networks.js",
  "estimation/people.js",
  "estimation/quality.js",
  "estimation/resample.js",
  "estimation/search_size.js",
  "estimation/tracker.js",
  "estimation/turned.js",
  "estimation/worker.js",
  "estimation/yunet_onet.js",
  "engine/manifest.json",
  "engine/ort.wasm.bundle.min.mjs",
  "engine/ort-wasm-simd-threaded.wasm",
];

const possible = () => "serviceWorker" in navigator && "caches" in window;

/** Keep the page, and models by their addresses; whether that is possible here. */
export async function keepPage(addresses, token) {
  if (!possible()) return false;
  try {
    await navigator.serviceWorker.register("sw.js");
    const cache = await caches.open(CACHE);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    for (const address of [...FILES, "v1/models", ...addresses]) {
      const url = new URL(address.replace(/^\//, ""), new URL("./", import.meta.url));
      const response = await fetch(url, { headers });
      if (!response.ok) return false;
      await cache.put(url, response);
    }
    return true;
  } catch {
    return false; // storage is blocked or full, or the server has gone: this visit works without it
  }
}

/** Let go of what was kept. */
export async function forgetPage() {
  if (!possible()) return;
  try {
    for (const registration of await navigator.serviceWorker.getRegistrations()) await registration.unregister();
    await caches.delete(CACHE);
  } catch {
    // storage is blocked: nothing was kept
  }
}
