"""Split a cohort into shards, so that many machines share its work and a killed one costs a shard at most."""
