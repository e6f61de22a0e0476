// Written by scripts/twin.py from agelens/faces: change the Python, then run the script.

export default {
  "mtcnn": {
    "min_face_size": 40,
    "thresholds": [
      0.8,
      0.8,
      0.7
    ],
    "scale_factor": 0.709,
    "max_side": 1024,
    "cell": 12,
    "stride": 2
  },
  "alignment": {
    "oversampling": 1.5
  },
  "quality": {
    "window": 9,
    "nose_place": 0.576,
    "nose_depth_of_face": 0.488,
    "nose_depth_of_eyes": 0.5
  }
};
