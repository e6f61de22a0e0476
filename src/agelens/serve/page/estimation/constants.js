// Written by scripts/twin.py from agelens/faces: change the Python, then run the script.

export default {
  "mtcnn": {
    "min_face_size": null,
    "thresholds": [
      0.8,
      0.8,
      0.7
    ],
    "scale_factor": 0.709,
    "max_side": null,
    "cell": 12,
    "stride": 2,
    "searched_face": 40,
    "faces_across": 60
  },
  "turned": {
    "upright": 0.98,
    "turned": 0.995
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
