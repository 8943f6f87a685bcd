"""Photos, recordings and videos: reading of untrusted files, and the video writer."""
