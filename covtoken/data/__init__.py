"""Read pictures, masks and cohorts. This file imports no module, so that no mask door opens with it."""
