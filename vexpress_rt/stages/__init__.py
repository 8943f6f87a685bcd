"""The stages of a video: portrait, pose and speech to conditions, latents to frames."""
