"""Photos to train on: files and shards, what is left out, batches, pairs, damage."""
