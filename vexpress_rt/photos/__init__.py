"""Containers of photos, read without trust before a decoder sees them.

A reader takes the bytes of a file and gives `Parts`: the same picture with everything left out that decides no pixel
(text, profiles, thumbnails, EXIF), its orientation, and the memory that its decoding takes at most.
"""
