"""Faces in images: reading, detection, alignment."""
