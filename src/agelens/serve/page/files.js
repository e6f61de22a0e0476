// The photos and clips that were dropped, those in folders too.

import { isClipName } from "./clip.js";

const PHOTO = /\.(avif|bmp|dib|gif|heic|heif|jfif|jpe|jpe?g|mpo|png|tiff?|webp)$/i;
const MOST = 2000; // files of dropped folders

/**
 * The files of a DataTransfer: {files, skipped}. Of a folder those below it whose names are a photo's or a clip's;
 * `skipped` counts the others. To be called while the event is handled; the folders are read afterwards.
 */
export function droppedFiles(transfer) {
  const given = Array.from(transfer.items, (item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile?.() }));
  if (!given.some(({ entry }) => entry?.isDirectory)) {
    return Promise.resolve({ files: Array.from(transfer.files), skipped: 0 });
  }
  return readFolders(given);
}

async function readFolders(given) {
  const found = { files: [], skipped: 0 };
  for (const { entry, file } of given) {
    if (entry?.isDirectory) await readFolder(entry, found);
    else if (file) found.files.push(file);
  }
  return found;
}

async function readFolder(folder, found) {
  for (const entry of await entriesOf(folder)) {
    if (entry.isDirectory) {
      if (!entry.name.startsWith(".")) await readFolder(entry, found);
    } else if (!(PHOTO.test(entry.name) || isClipName(entry.name)) || entry.name.startsWith(".") || found.files.length === MOST) {
      found.skipped++;
    } else {
      found.files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    }
  }
}

/** All entries of a folder by name; a reader gives them a hundred at a time. */
async function entriesOf(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all.toSorted((one, other) => one.name.localeCompare(other.name));
    all.push(...some);
  }
}
