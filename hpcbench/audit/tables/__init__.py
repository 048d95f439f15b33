"""Tables that others have published: reading and judging them."""
