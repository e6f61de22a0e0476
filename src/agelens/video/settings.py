"""The constants of tracking and fusion, in one place: the page's twin reads them from here.

Lengths are in *scales* of the face: the root mean square distance of its five points from their middle, about
0.7 of the distance between the eyes. It is steadier than that distance in a face that turns.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FUSION", "TRACKING", "FusionSettings", "TrackingSettings"]


@dataclass(frozen=True)
class TrackingSettings:
    """Constants of `agelens.video.tracker`.

    Attributes:
        look_every: Least seconds between two frames in which faces are looked for; in those between, people
            are where they were.
        detect_every: Seconds between two searches of the whole frame.
        detect_again: Seconds after a search, before a face that was lost calls for the next one.
        turned_every: Seconds between two searches for faces in turned frames while there is no track; each
            that finds none doubles the time.
        turned_longest: Longest time between two of them, seconds.
        window: Side in pixels of the upright window in which a known face is searched.
        window_template: Side of the crop geometry in units of the window's side.
        reach: Farthest that a face moves between two frames, scales.
        reach_per_second: Further reach for each second that a face is not seen, scales.
        farthest: Largest reach, scales.
        growth: Largest ratio of a face's scales in two frames, either way.
        growth_unseen: The same after a gap.
        overlap: Overlap of two boxes, intersection over union, from which both are of one face.
        grid: Blocks of the crop, along each axis, whose colours are a face's look.
        look_memory: Share of the kept look when a new one is added.
        alike: Lowest likeness of looks, -1 to 1, between frames.
        alike_unseen: Lowest likeness after a face was not seen.
        alike_cut: Lowest likeness over a cut.
        gap: Seconds without a face from which on ``alike_unseen`` counts, and that end a track which is no
            person yet.
        coast: Seconds without a face that end the track of a person.
        confirm: Sightings that make a face a person.
        velocity_memory: Share of the kept velocity when a new one is added.
        velocity_fade: Seconds in which the velocity of an unseen face falls to 1/e.
        scene: Points, along each axis, at which two frames are compared.
        scene_colours: Levels of each colour in the histogram of a frame.
        cut_colours: Share of the points that changed their colour class, from which on a change is a cut.
        cut_levels: Mean change of a point, in levels of 0 … 255, from which on it is.
    """

    look_every: float = 0.045
    detect_every: float = 0.33
    detect_again: float = 0.1
    turned_every: float = 1.0
    turned_longest: float = 8.0
    window: int = 96
    window_template: float = 0.6
    reach: float = 2.0
    reach_per_second: float = 6.0
    farthest: float = 8.0
    growth: float = 1.5
    growth_unseen: float = 1.8
    overlap: float = 0.4
    grid: int = 8
    look_memory: float = 0.9
    alike: float = 0.3
    alike_unseen: float = 0.6
    alike_cut: float = 0.75
    gap: float = 0.15
    coast: float = 1.2
    confirm: int = 3
    velocity_memory: float = 0.5
    velocity_fade: float = 0.3
    scene: int = 32
    scene_colours: int = 4
    cut_colours: float = 0.45
    cut_levels: float = 30.0


TRACKING = TrackingSettings()
"""The constants of tracking."""


@dataclass(frozen=True)
class FusionSettings:
    """Constants of `agelens.video.fusion`: the weight of a frame falls from 1 to ``least`` along ramps.

    Attributes:
        eye_distance: Pixels between the eyes, of weight 0 and of weight 1.
        blur: Blur of the crop (`agelens.faces.quality.blur_effect`), of weight 1 and of weight 0.
        yaw: Degrees turned sideways, either way.
        pitch: Degrees turned up or down.
        outside: Share of the box beyond the border of the frame.
        least: Least weight of a frame.
        widening: Temperature of the distribution of a person, above 1: frames of clips are softer, noisier
            and darker than the photographs that models are calibrated on.
        settled: Seconds after which a running age counts as settled.
    """

    eye_distance: tuple[float, float] = (8.0, 24.0)
    blur: tuple[float, float] = (0.6, 0.85)
    yaw: tuple[float, float] = (25.0, 60.0)
    pitch: tuple[float, float] = (20.0, 50.0)
    outside: tuple[float, float] = (0.0, 0.3)
    least: float = 0.02
    widening: float = 1.2
    settled: float = 1.0


FUSION = FusionSettings()
"""The constants of fusion."""
