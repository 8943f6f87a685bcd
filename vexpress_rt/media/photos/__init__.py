"""Readers of untrusted photo containers, which run before a decoder.

A reader takes the bytes of a file and returns an `EncodedPhoto`: the same picture without data that affects no pixel
(text, profiles, thumbnails, EXIF), its orientation, and an upper bound of the memory that its decoder takes.
"""
