// Written by scripts/twin.py from the Python code: change that, then run the script.

export default {
  "search": {
    "least_face": 12,
    "searched_face": 40,
    "faces_across": 60
  },
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
    "stride": 2
  },
  "yunet": {
    "strides": [
      8,
      16,
      32
    ],
    "padding": 32,
    "large": 320,
    "overlap": 0.3
  },
  "yunet_onet": {
    "min_face_size": null,
    "thresholds": [
      0.02,
      0.6,
      0.7
    ],
    "max_side": null,
    "proposed_face": 20,
    "certain": 0.5,
    "least_side": 15,
    "most_uncertain": 16,
    "output_side": 48,
    "shift": [
      -0.046,
      -0.016
    ],
    "side": 0.954
  },
  "turned": {
    "by_confidence": {
      "upright": 0.98,
      "turned": 0.995
    },
    "by_upright": {
      "upright": 0.88,
      "turned": 0.86
    },
    "several": 3
  },
  "alignment": {
    "oversampling": 1.5
  },
  "quality": {
    "window": 9,
    "nose_place": 0.576,
    "nose_depth_of_face": 0.488,
    "nose_depth_of_eyes": 0.5
  },
  "tracking": {
    "look_every": 0.045,
    "detect_every": 0.33,
    "detect_again": 0.1,
    "turned_every": 1.0,
    "turned_longest": 8.0,
    "window": 96,
    "window_template": 0.6,
    "reach": 2.0,
    "reach_per_second": 6.0,
    "farthest": 8.0,
    "growth": 1.5,
    "growth_unseen": 1.8,
    "overlap": 0.4,
    "grid": 8,
    "look_memory": 0.9,
    "alike": 0.3,
    "alike_unseen": 0.6,
    "alike_cut": 0.75,
    "gap": 0.15,
    "coast": 1.2,
    "confirm": 3,
    "velocity_memory": 0.5,
    "velocity_fade": 0.3,
    "scene": 32,
    "scene_colours": 4,
    "cut_colours": 0.45,
    "cut_levels": 30.0
  },
  "fusion": {
    "eye_distance": [
      8.0,
      24.0
    ],
    "blur": [
      0.6,
      0.85
    ],
    "yaw": [
      25.0,
      60.0
    ],
    "pitch": [
      20.0,
      50.0
    ],
    "outside": [
      0.0,
      0.3
    ],
    "least": 0.02,
    "widening": 1.2,
    "settled": 1.0
  }
};
