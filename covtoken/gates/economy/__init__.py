"""Parts of gate 6: scores at a tap, the choice of a setting, certificates, and what routed features still do."""
