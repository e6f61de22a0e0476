// What a clip and the camera share: frames of a <video>, and the people marked on it.

import { interval } from "./distribution.js";

const part = (element, name) => element.querySelector(`[data-part="${name}"]`);
const percent = (share) => `${100 * share}%`;
const years = (age) => Math.round(age);

/** The next frame that a playing <video> shows: its time in the video, seconds. */
export function nextFrame(video) {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) {
      video.requestVideoFrameCallback((_, { mediaTime }) => resolve(mediaTime));
    } else {
      requestAnimationFrame(() => resolve(video.currentTime));
    }
  });
}

/** The frame that a <video> shows, as an ImageBitmap of at most `most` pixels along its longer side. */
export function grab(video, most) {
  const { videoWidth: width, videoHeight: height } = video;
  const scale = most / Math.max(width, height);
  if (scale >= 1) return createImageBitmap(video);
  const size = (length) => Math.max(1, Math.round(length * scale));
  return createImageBitmap(video, { resizeWidth: size(width), resizeHeight: size(height), resizeQuality: "medium" });
}

/** Person, age and interval in words. */
export function told({ person, low, high, age, settled }) {
  const text = `Person ${person}: about ${years(age)} years, ${years(low)} to ${years(high)}`;
  return settled ? text : `${text}; settling …`;
}

/** The interval of a person's age: {low, high}. */
export function bounds(distribution, { bins, calibration }, level) {
  const [low, high] = interval(distribution, bins, calibration, level);
  return { low, high };
}

/** The boxes of people over a video: one that is not shown any more goes at once. */
export class Marks {
  #boxes = new Map();

  /** `root` lies over the video. */
  constructor(root) {
    this.root = root;
  }

  /** Mark people {person, box, age, low, high, settled} of a frame; `mirrored`: left and right are changed. */
  show(people, { width, height }, mirrored = false) {
    for (const [person, element] of this.#boxes) {
      if (people.some((shown) => shown.person === person)) continue;
      element.remove();
      this.#boxes.delete(person);
    }
    for (const { person, box, age, low, high, settled } of people) {
      const element = this.#boxes.get(person) ?? this.#add(person);
      const [x1, y1, x2, y2] = box;
      element.style.left = percent(mirrored ? 1 - x2 / width : x1 / width);
      element.style.top = percent(y1 / height);
      element.style.width = percent((x2 - x1) / width);
      element.style.height = percent((y2 - y1) / height);
      element.classList.toggle("low", y2 > 0.9 * height);
      element.classList.toggle("settling", !settled);
      part(element, "age").textContent = years(age);
      part(element, "interval").textContent = `${years(low)}–${years(high)}`;
    }
  }

  clear() {
    this.show([], { width: 1, height: 1 });
  }

  #add(person) {
    const element = document.getElementById("mark").content.firstElementChild.cloneNode(true);
    element.dataset.person = person;
    part(element, "number").textContent = person;
    this.#boxes.set(person, element);
    this.root.append(element);
    return element;
  }
}
