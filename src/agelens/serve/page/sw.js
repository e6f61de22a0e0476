// The service worker: the server's answer if there is one, else the file that was kept. It leaves photos alone: those
// that are sent are POSTed.

const CACHE = "agelens";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith(fetch(request).then((response) => renewed(request, response), (error) => kept(request, error)));
});

/** The server's answer; what is kept of that address is replaced by it. */
async function renewed(request, response) {
  if (response.ok && (await caches.has(CACHE))) {
    const cache = await caches.open(CACHE);
    if (await cache.match(request, { ignoreVary: true })) await cache.put(request, response.clone());
  }
  return response;
}

async function kept(request, error) {
  const response = await caches.match(request, { ignoreVary: true });
  if (response === undefined) throw error;
  return response;
}
