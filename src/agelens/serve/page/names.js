// Names of files as they may be shown: characters that turn the direction of the text around are left out.

const TURNING = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

export function shownName(file) {
  return file.name.replace(TURNING, "").trim() || "Pasted photo";
}
