"""More than a batch: many batches, single examples, many processes."""
