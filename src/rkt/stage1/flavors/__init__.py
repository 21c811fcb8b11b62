"""stage1-fly and stage1-nspawn: what they do another way."""
