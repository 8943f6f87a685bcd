"""Faces: detection, tracking, keypoints, retargeting and keypoint maps."""
