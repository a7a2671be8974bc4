"""Make lesion maps of a person's own pictures: no mask is needed, and none is read."""
