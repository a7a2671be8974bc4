"""Give engineers what runs in their own programs: routed modules, and exported maps."""
