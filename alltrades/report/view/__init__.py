"""Recordings to look at: a page, a Rerun recording, thumbnails in a terminal."""
