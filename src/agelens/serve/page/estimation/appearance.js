// How an aligned crop looks: agelens/faces/appearance.py in the page.

const NEAR = 1; // pixels between the compared grey values
const FAR = 4;

/** Sharpness, contrast, brightness and colour of a crop, by name. */
export function cropAppearance({ width, height, pixels }) {
  const count = width * height;
  const grey = new Float32Array(count);
  let [sum, colours] = [0, 0];
  for (let index = 0; index < count; index++) {
    const [red, green, blue] = pixels.subarray(3 * index, 3 * index + 3);
    grey[index] = (77 * red + 150 * green + 29 * blue) / 256;
    sum += grey[index];
    colours += Math.max(red, green, blue) - Math.min(red, green, blue);
  }
  const mean = sum / count;
  const variance = grey.reduce((total, value) => total + (value - mean) ** 2, 0) / count;
  return {
    sharpness: 0.5 * Math.log((difference(grey, width, height, NEAR) + 1) / (difference(grey, width, height, FAR) + 1)),
    contrast: Math.log1p(Math.sqrt(variance)),
    brightness: mean / 255,
    colour: Math.log1p(colours / count),
  };
}

/** Mean squared difference of pixels `step` apart, over both axes; 0 in a crop that has none. */
function difference(grey, width, height, step) {
  if (Math.min(width, height) <= step) return 0;
  let [along, across] = [0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = grey[y * width + x];
      if (x + step < width) along += (grey[y * width + x + step] - value) ** 2;
      if (y + step < height) across += (grey[(y + step) * width + x] - value) ** 2;
    }
  }
  return (along / (height * (width - step)) + across / (width * (height - step))) / 2;
}
