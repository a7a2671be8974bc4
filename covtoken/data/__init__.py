"""Readers, one a layout. Import the modules themselves: this file imports none, so that no mask door opens with it."""
