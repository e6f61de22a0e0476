// What makes an estimate doubtful: agelens/faces/quality.py and faces/quality_warnings.py in the page, with the same
// measures, thresholds (the service tells them) and sentences.

import constants from "./constants.js";

const {
  window: WINDOW, // pixels of the mean filter of the blur effect
  nose_place: NOSE_PLACE, // between the eyes (0) and the mouth (1)
  nose_depth_of_face: NOSE_DEPTH_OF_FACE, // in the distance from eyes to mouth
  nose_depth_of_eyes: NOSE_DEPTH_OF_EYES, // in eye distances
} = constants.quality;

const degrees = (radians) => (radians * 180) / Math.PI;

/** Measures of one detected face {box, landmarks} and of its crop. */
export function faceQuality(crop, { box, landmarks }, width, height) {
  const [[leftX, leftY], [rightX, rightY]] = landmarks;
  const distance = Math.hypot(rightX - leftX, rightY - leftY);
  const { yaw, pitch } = distance > 0 ? pose(landmarks, distance) : { yaw: null, pitch: null };
  return { eye_distance: distance, blur: blurEffect(crop), yaw, pitch, outside: shareOutside(box, width, height) };
}

function pose([left, right, nose, mouthLeft, mouthRight], distance) {
  const along = [(right[0] - left[0]) / distance, (right[1] - left[1]) / distance];
  const eyes = [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2];
  const mouth = [(mouthLeft[0] + mouthRight[0]) / 2, (mouthLeft[1] + mouthRight[1]) / 2];
  const sideways = ([x, y]) => (x - eyes[0]) * along[0] + (y - eyes[1]) * along[1];
  const down = ([x, y]) => (y - eyes[1]) * along[0] - (x - eyes[0]) * along[1];
  const place = down(mouth) === 0 ? NOSE_PLACE : down(nose) / down(mouth);
  return {
    yaw: degrees(Math.atan2(sideways(nose), NOSE_DEPTH_OF_EYES * distance)),
    pitch: degrees(Math.atan((NOSE_PLACE - place) / NOSE_DEPTH_OF_FACE)),
  };
}

/** Blur of a crop, 0 (sharp) to 1: the share of its differences that survives a further blur. */
export function blurEffect({ width, height, pixels }) {
  const grey = new Float32Array(width * height);
  for (let index = 0; index < grey.length; index++) {
    grey[index] = 0.299 * pixels[3 * index] + 0.587 * pixels[3 * index + 1] + 0.114 * pixels[3 * index + 2];
  }
  const acrossRows = survivingShare(width, height, (x, y) => grey[y * width + x]);
  return Math.max(acrossRows, survivingShare(height, width, (y, x) => grey[y * width + x]));
}

function survivingShare(length, lines, value) {
  const half = (WINDOW - 1) / 2;
  let [total, lost] = [0, 0];
  for (let line = 0; line < lines; line++) {
    const at = (place) => value(Math.min(Math.max(place, 0), length - 1), line);
    for (let place = 0; place < length - 1; place++) {
      const before = Math.abs(at(place + 1) - at(place));
      // Two neighbouring means of nine differ by the values that enter and leave the window.
      const after = Math.abs(at(place + 1 + half) - at(place - half)) / WINDOW;
      total += before;
      lost += Math.max(before - after, 0);
    }
  }
  return total > 0 ? 1 - lost / total : 1;
}

function shareOutside([x1, y1, x2, y2], width, height) {
  const area = (x2 - x1) * (y2 - y1);
  if (area <= 0) return 0;
  const across = Math.max(0, Math.min(x2, width) - Math.max(x1, 0));
  const down = Math.max(0, Math.min(y2, height) - Math.max(y1, 0));
  return Math.max(0, 1 - (across * down) / area);
}

/** What about a face makes its estimate doubtful. */
export function faceWarnings(quality, thresholds) {
  const found = [];
  const yaw = Math.abs(quality.yaw ?? 0);
  const pitch = Math.abs(quality.pitch ?? 0);
  const whole = (number) => number.toFixed(0);
  if (quality.eye_distance < thresholds.eye_distance) {
    const message = `the face is small: ${whole(quality.eye_distance)} pixels between the eyes`;
    found.push({ code: "too_small", message });
  }
  if (quality.blur > thresholds.blur) {
    found.push({ code: "blurred", message: "the face is blurred; blurred faces look younger than they are" });
  }
  if (yaw > thresholds.yaw || pitch > thresholds.pitch) {
    const turned = `about ${whole(yaw)} degrees sideways, ${whole(pitch)} up or down`;
    found.push({ code: "extreme_pose", message: `the face is turned away: ${turned}` });
  }
  if (quality.outside > thresholds.outside) {
    found.push({ code: "truncated", message: "the face is cut off by the border of the photo" });
  }
  return found;
}

/** What about a photo one might not expect. */
export function photoWarnings(faces, leftOut) {
  const found = [];
  if (faces === 0) found.push({ code: "no_face", message: "no face was found" });
  if (faces > 1) {
    found.push({ code: "several_faces", message: `${faces} faces were found; the largest comes first` });
  }
  if (leftOut > 0) found.push({ code: "faces_left_out", message: `${leftOut} smaller faces were not estimated` });
  return found;
}
