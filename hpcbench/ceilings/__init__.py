"""What a node can do at most: measured limits (ceilings), their records, and the step time predicted from
them."""
