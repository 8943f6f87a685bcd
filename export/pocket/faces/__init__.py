"""Drawings of random people in any pose: `draw_face(random_person(3), Pose(yaw=0.2, mouth=0.5))`."""

from export.pocket.faces.depth import draw_depth
from export.pocket.faces.measures import identity_distance, identity_patch, mouth_opening
from export.pocket.faces.noses import nose_place
from export.pocket.faces.people import Person, random_person
from export.pocket.faces.portrait import Drawing, draw_face
from export.pocket.faces.poses import Pose, keypoints

__all__ = [
    "Drawing",
    "Person",
    "Pose",
    "draw_depth",
    "draw_face",
    "identity_distance",
    "identity_patch",
    "keypoints",
    "mouth_opening",
    "nose_place",
    "random_person",
]
